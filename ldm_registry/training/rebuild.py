"""Small changes to a finished component: its rounding for storage, and its config."""

from __future__ import annotations

from typing import TypeVar

import torch

from ldm_registry.interfaces import Component, ComponentConfig

SAVED_DTYPE = torch.float16
"""What trained weights are stored in."""

Part = TypeVar("Part", bound=Component)


@torch.no_grad()
def round_weights(part: Component) -> None:
    """Round the weights to the type that they are stored in, so that what is measured is what is stored."""
    for tensor in part.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(SAVED_DTYPE))


def rebuilt(part: Part, config: ComponentConfig, device: torch.device) -> Part:
    """The same encoder or decoder under another config, ready for inference."""
    other = type(part)(config)
    other.load_state_dict(part.state_dict())
    return other.to(device).eval()
