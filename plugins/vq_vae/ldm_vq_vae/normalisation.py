"""The affine map between a codec's raw latents and the unit-variance latents of the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ldm_registry.errors import SpecError


@final
@dataclass(frozen=True, slots=True)
class Normalisation:
    """`normalised = (raw - mean) * scale`, channel by channel.

    Attributes:
        mean: In raw units, one number for all channels or one for each.
        scale: Normalised units for each raw unit, > 0, as many as `mean`.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw latents [B, C, H, W] to latents of the denoiser, same shape, dtype and device."""
        centred = raw - _factor(self.mean, raw) if any(self.mean) else raw
        return centred * _factor(self.scale, raw)

    def denormalise(self, latent: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        raw = latent / _factor(self.scale, latent)
        return raw + _factor(self.mean, latent) if any(self.mean) else raw

    def then(
        self, mean: Sequence[float], std: Sequence[float]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Fold in what the normalised latents were measured to be.

        Args:
            mean: Measured mean of each channel, in normalised units.
            std: Measured standard deviation of each channel, in normalised units, > 0.

        Returns:
            Mean and standard deviation of each channel in raw units.

        Raises:
            SpecError: There are not as many numbers as channels, or a standard deviation is not positive.
        """
        channels = len(std)
        if (
            len(mean) != channels
            or len(self.mean) not in (1, channels)
            or not all(0 < one < float("inf") for one in std)
        ):
            raise SpecError(
                "measured latent statistics cannot be used",
                [
                    f"mean: got {len(mean)} values {[float(one) for one in mean]}",
                    f"std: got {channels} values {[float(one) for one in std]}",
                ],
                "give one finite mean and one positive standard deviation for each latent channel",
            )
        own_mean = self.mean if len(self.mean) == channels else self.mean * channels
        own_scale = self.scale if len(self.scale) == channels else self.scale * channels
        raw_mean = tuple(m + float(new) / s for m, s, new in zip(own_mean, own_scale, mean, strict=True))
        raw_std = tuple(float(new) / s for s, new in zip(own_scale, std, strict=True))
        return raw_mean, raw_std


def _factor(values: tuple[float, ...], like: Tensor) -> Tensor | float:
    # Made anew from Python floats in the dtype of the batch, so that a module that was moved to half
    # precision and back, or built on the meta device, never holds a rounded or missing copy.
    if len(values) == 1:
        return values[0]
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
