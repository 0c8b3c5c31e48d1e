"""The clean estimate that every sampler steps with: asked for, converted, and limited where the config says so."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.interfaces import Denoise, Denoised, NoiseLevel
from ldm_schedulers.spacing_config import SpacingConfig


class SamplerConfig(SpacingConfig):
    """What every sampler takes: where its levels lie, and how the clean estimate is limited (by default, not)."""

    clip: float | None = Field(
        default=None,
        gt=0,
        description="clamp the clean estimate to [-clip, clip]; for pixels only, latents reach beyond any such range",
    )
    threshold_ratio: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="dynamic thresholding at this quantile of |x0| (Sec. 2.3, Saharia et al. 2022); for pixels only",
    )
    threshold_max: float = Field(default=1.0, ge=1, description="largest value that the quantile may take")


def at_least_float32(z: Tensor) -> Tensor:
    """The state in its own dtype, or in float32 where that is narrower."""
    return z if z.dtype.itemsize >= 4 else z.float()


def estimate(denoise: Denoise, z: Tensor, level: NoiseLevel, config: SamplerConfig) -> Denoised:
    """Ask for the clean estimate of `z`, in the dtype of `z` and within the limits of the config.

    Args:
        denoise: The denoiser.
        z: [B, C, H, W] at the level.
        level: Of `z`.
        config: Says how to limit the estimate.
    """
    answer = denoise(z, level)
    x0 = answer.x0 if answer.x0.dtype == z.dtype else answer.x0.to(z.dtype)
    return Denoised(limited(x0, config), answer.variance)


def limited(x0: Tensor, config: SamplerConfig) -> Tensor:
    """Clip or threshold a clean estimate [B, C, H, W] as the config says; unchanged by default."""
    if config.threshold_ratio is not None:
        size = torch.quantile(at_least_float32(x0).abs().flatten(1), config.threshold_ratio, dim=1)
        size = size.clamp(1.0, config.threshold_max).to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
        x0 = x0.clamp(-size, size) / size
    return x0 if config.clip is None else x0.clamp(-config.clip, config.clip)
