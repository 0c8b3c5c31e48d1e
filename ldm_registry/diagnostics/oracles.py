"""Stages that are right by construction: a denoiser in closed form, a reference sampler, a decoder around known pairs.

None of them is a second implementation of the part that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from ldm_registry.interfaces import Denoise, Denoised, NoiseLevel
from ldm_registry.noise import broadcast
from ldm_registry.vocabulary import Scaling

HIGHEST_LOG_SNR = 9.0
"""Where the reference sampler stops, nats: noise of 1 % is left, and the last clean estimate is taken as it is."""
RIDGE = 1e-3
"""Relative to the mean power of the features."""
MARGIN = 1
"""Latent cells around the one whose pixels are explained."""


@dataclass(frozen=True, slots=True)
class KnownLatents:
    """The exact denoiser for latents that are known up to a spread: image i has `x0 ~ N(latents[i], spread**2 I)`.

    A spread of 0 is a point mass, which forgives a sampler everything, since the last clean estimate is right
    whatever came before. With one the estimate follows the state where the noise is small against it, as a
    network's does, so that a sampler's errors stay visible.

    Attributes:
        latents: [N, c, h, w], one for each sample of the batch.
        spread: Standard deviation, denoiser-space units.
    """

    latents: Tensor
    spread: float

    def __call__(self, z: Tensor, level: NoiseLevel) -> Denoised:
        """`E[x0 | z] = m + g (z / alpha - m)`, `g = alpha**2 s**2 / (alpha**2 s**2 + sigma**2)`.

        Eq. 2.116 of Bishop 2006.

        Args:
            z: [N, c, h, w] at the level, not normalised.
            level: Shape [] or [N]; a level without noise gives `z / alpha`.
        """
        alpha, sigma = broadcast(level.alpha, z), broadcast(level.sigma, z)
        known = self.latents.to(z)
        variance = alpha**2 * self.spread**2 + sigma**2
        if not bool((level.sigma > 0).all()) and self.spread == 0.0:
            return Denoised(known)
        gain = alpha * self.spread**2 / variance
        return Denoised(known + gain * (z - alpha * known))


def reference_levels(low: float, high: float, steps: int) -> tuple[NoiseLevel, ...]:
    """Variance-preserving levels, evenly spaced in log-SNR, noisiest first.

    Args:
        low: First log-SNR, nats.
        high: Last one.
        steps: One less than the levels.
    """
    log_snrs = torch.linspace(low, high, steps + 1, dtype=torch.float64, device="cpu")
    return tuple(NoiseLevel.at(value, Scaling.VP) for value in log_snrs)


def reference_sample(denoise: Denoise, z: Tensor, levels: tuple[NoiseLevel, ...]) -> Tensor:
    """Integrate the probability-flow ODE and return the last clean estimate [N, c, h, w].

    The exponential integrator of second order that keeps one earlier estimate, in half log-SNR (DPM-Solver++ 2M,
    algorithm 2, Lu et al. 2022). Deterministic.

    Args:
        denoise: The clean estimate at a level.
        z: [N, c, h, w] at `levels[0]`.
        levels: Noisiest first.
    """
    before: tuple[Tensor, float] | None = None
    x0 = denoise(z, levels[0]).x0
    for here, there in pairwise(levels):
        width = 0.5 * float(there.log_snr - here.log_snr)
        direction = x0
        if before is not None:
            earlier, earlier_width = before
            direction = x0 + 0.5 * (width / earlier_width) * (x0 - earlier)
        ratio = float(there.sigma / here.sigma)
        # alpha (1 - exp(-h)) = alpha - alpha_here sigma_there / sigma_here
        gain = float(there.alpha) - float(here.alpha) * ratio
        z = ratio * z + gain * direction
        before = (x0, width)
        x0 = denoise(z, there).x0
    return x0


@dataclass(frozen=True, slots=True)
class KnownPairs:
    """A decoder that is exact at known (latent, image) pairs, and linear around them.

    `decode(z)[i] = image[i] + J (z[i] - latent[i])`, where J explains the pixels of a cell by the latent cells around
    it, fitted to all pairs by ridge regression. So what comes before the decoder shows in pixels, and what the
    decoder under test does has no part in it.

    Attributes:
        latents: [N, c, h, w].
        images: [N, C, H, W].
        weight: float64 [features, C * stride**2].
    """

    latents: Tensor
    images: Tensor
    weight: Tensor

    @classmethod
    def of(cls, latents: Tensor, images: Tensor) -> Self:
        """Fit J to pairs of latents [N, c, h, w] and images [N, C, H, W]."""
        stride = images.shape[-1] // latents.shape[-1]
        features = torch.cat(list(_cells(latents)))
        pixels = functional.unfold(images.double(), stride, stride=stride).mT.flatten(0, 1)
        features, pixels = features - features.mean(0), pixels - pixels.mean(0)
        gram = features.T @ features
        gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-12))
        return cls(latents, images, torch.linalg.solve(gram, features.T @ pixels))

    def decode(self, z: Tensor) -> Tensor:
        """Images [N, C, H, W] of latents [N, c, h, w], one for each pair."""
        size = self.images.shape[-2:]
        stride = size[-1] // z.shape[-1]
        changes = torch.stack([cells @ self.weight for cells in _cells(z - self.latents)])
        return self.images + functional.fold(changes.mT, size, stride, stride=stride).to(self.images)


def _cells(latents: Tensor) -> Iterator[Tensor]:
    """For each sample, every cell with the cells around it: float64 [h w, features]."""
    padded = functional.pad(latents.double(), (MARGIN,) * 4, mode="replicate")
    yield from functional.unfold(padded, 2 * MARGIN + 1).mT
