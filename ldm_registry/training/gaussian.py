"""The Gaussian-optimal (Wiener) denoiser of a set of latents: the yardstick that a trained one has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel

LARGEST_DENSE = 4096
"""Dimensions up to which the covariance itself is decomposed; above, the Gram matrix of the samples is."""


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """Mean and principal axes of a set of latents.

    Attributes:
        mean: float64 [D].
        axes: [D, K], orthonormal columns; float32 where D is large.
        variances: float64 [K], along the axes; none is left elsewhere.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> Self:
        """Fit latents [N, ...] with their full sample covariance.

        With fewer samples than dimensions the axes come from the N x N Gram matrix: the covariance's non-zero
        eigenvalues are the Gram matrix's, and its eigenvectors those combinations of the samples.
        """
        flat = latents.flatten(1)
        mean = flat.double().mean(0)
        if flat.shape[1] <= LARGEST_DENSE:
            centred = flat.double() - mean
            variances, axes = torch.linalg.eigh(centred.T @ centred / len(flat))
            return cls(mean, axes, variances.clamp(min=0.0))
        low = flat.float() - mean.float()
        variances, vectors = torch.linalg.eigh((low @ low.T).double() / len(flat))
        kept = variances > variances.max() * 1e-6
        variances, vectors = variances[kept], vectors[:, kept]
        axes = low.T @ (vectors / (variances * len(flat)).sqrt()).float()
        return cls(mean, axes, variances)

    def denoise(self, z: Tensor, level: NoiseLevel) -> Tensor:
        """`E[x0 | z]` of a Gaussian: `mean + alpha C (alpha**2 C + sigma**2)^-1 (z - alpha mean)`.

        Args:
            z: [N, ...] at the level.
            level: Shape [].
        """
        alpha, sigma = float(level.alpha), float(level.sigma)
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        residual = (z.flatten(1).double() - alpha * self.mean).to(self.axes.dtype)
        found = (residual @ self.axes * gain.to(self.axes.dtype)) @ self.axes.T
        return (found.double() + self.mean).to(z.dtype).reshape(z.shape)
