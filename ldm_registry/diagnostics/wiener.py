"""The Gaussian-optimal denoiser of a set of latents, from few images: the yardstick of a denoiser without records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel


@dataclass(frozen=True, slots=True)
class Wiener:
    """A Gaussian whose covariance is that of the latents among channels, frequency by frequency.

    The full covariance of a latent has far more entries than a few dozen images can tell; among cosines, images are
    nearly uncorrelated between frequencies (Ahmed, Natarajan and Rao 1974), so what is left are H * W matrices of
    C x C. Its error is therefore a little above that of the full covariance.

    Attributes:
        mean: float64 [C, H, W].
        axes: float64 [H, W, C, C], for each frequency the principal axes among channels, as columns.
        variances: float64 [H, W, C], along the axes.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> Self:
        """Fit latents [N, C, H, W]."""
        double = latents.detach().to("cpu", torch.float64)
        mean = double.mean(0)
        waves = to_cosines(double - mean)
        covariance = torch.einsum("nchw,ndhw->hwcd", waves, waves) / max(len(latents) - 1, 1)
        variances, axes = torch.linalg.eigh(covariance)
        return cls(mean, axes, variances.clamp(min=0.0))

    def denoise(self, z: Tensor, level: NoiseLevel) -> Tensor:
        """`E[x0 | z] = mean + alpha C (alpha**2 C + sigma**2)^-1 (z - alpha mean)` (Eq. 2.116 of Bishop 2006).

        Args:
            z: [N, C, H, W] at the level.
            level: Shape [].
        """
        alpha, sigma = float(level.alpha), float(level.sigma)
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2).clamp(min=1e-30)
        waves = to_cosines(z.to("cpu", torch.float64) - alpha * self.mean)
        along = torch.einsum("hwcd,nchw->nhwd", self.axes, waves) * gain
        return (self.mean + from_cosines(torch.einsum("hwcd,nhwd->nchw", self.axes, along))).to(z.dtype)

    def expected_mse(self, level: NoiseLevel) -> float:
        """Mean squared error of x0 per value that it has on data of its own distribution.

        Args:
            level: Shape [].
        """
        alpha, sigma = float(level.alpha), float(level.sigma)
        total = (alpha**2 * self.variances + sigma**2).clamp(min=1e-30)
        return float((self.variances * sigma**2 / total).mean())


def to_cosines(images: Tensor) -> Tensor:
    """The orthonormal cosine transform of images [..., H, W] over both axes."""
    return _cosines(images.shape[-2], images) @ images @ _cosines(images.shape[-1], images).T


def from_cosines(waves: Tensor) -> Tensor:
    """The inverse of `to_cosines`."""
    return _cosines(waves.shape[-2], waves).T @ waves @ _cosines(waves.shape[-1], waves)


def _cosines(size: int, like: Tensor) -> Tensor:
    """The matrix of the orthonormal cosine transform (type II) of a length."""
    index = torch.arange(size, dtype=like.dtype, device=like.device)
    matrix = torch.cos(math.pi * (index + 0.5) * index[:, None] / size) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix
