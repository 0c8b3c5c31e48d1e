"""UNet: residual convolutions and self-attention down to a bottleneck and back (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component
from ldm_unet.config import UNetConfig
from ldm_unet.denoiser import UNet

__all__ = ["UNet", "UNetConfig", "register_components"]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The one component of this plugin: the denoiser `unet`."""
    return [UNet]
