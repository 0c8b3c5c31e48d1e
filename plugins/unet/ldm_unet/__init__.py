"""UNets: residual convolutions and attention down to a bottleneck and back (Ho et al. 2020, Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_denoiser import UNetCondition
from ldm_unet.config import UNetConfig
from ldm_unet.denoiser import UNet

__all__ = ["UNet", "UNetCondition", "UNetConditionConfig", "UNetConfig", "register_components"]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The denoisers `unet`, and `unet-condition`, which reads text."""
    return [UNet, UNetCondition]
