"""Networks of diffusers with random weights, and ours of the same weights, loaded from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_pipelines import diffusers, seeded

from ldm_registry import load_component
from ldm_registry.interfaces import Component
from ldm_registry.spec import TrainedSpec


def codec(name: str, widths: tuple[int, ...], **config: Any) -> Any:
    """An autoencoder of diffusers: `AutoencoderKL` or `VQModel`, in evaluation mode."""
    return seeded(
        getattr(diffusers(), name),
        **{
            "block_out_channels": widths,
            "down_block_types": ("DownEncoderBlock2D",) * len(widths),
            "up_block_types": ("UpDecoderBlock2D",) * len(widths),
            "layers_per_block": 2,
            "norm_num_groups": min(32, widths[0]),
            **config,
        },
    )


def ours(kind: str, model: Any, folder: Path, trained: dict[str, Any] | None = None) -> Component:
    """Our component of the weights of a model of diffusers, which is saved to the folder.

    Args:
        kind: Such as `decoder`.
        model: Of diffusers.
        folder: Filled with its checkpoint unless that is already there.
        trained: Prediction and schedule of a denoiser.
    """
    if not folder.exists():
        model.save_pretrained(folder)
    how = None if trained is None else TrainedSpec(**trained)
    part = load_component(kind, folder, trained=how)
    return part.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
