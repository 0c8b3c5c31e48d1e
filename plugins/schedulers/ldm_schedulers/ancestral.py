"""One step of the family that DDPM, DDIM and Euler belong to, in any scaling.

Given the clean estimate x0, the next state is Gaussian:

    z' = alpha' * x0 + sqrt(sigma'**2 - std**2) * epsilon + std * noise,   epsilon = (z - alpha * x0) / sigma

(Eq. 12, Song et al. 2021, "Denoising diffusion implicit models"). `std = 0` is DDIM, which is Euler's method on
the probability-flow equation both in `z / alpha` over `sigma / alpha` (Karras et al. 2022) and in
`z / (alpha + sigma)` over `sigma / (alpha + sigma)` (flow matching). The posterior's own std is DDPM.
Nothing is divided by alpha, so a first level without signal works.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm_registry.interfaces import Denoise, Generators, NoiseLevels, Step, randn
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate


@dataclass(frozen=True, slots=True)
class Move:
    """From one level to the next, as numbers.

    Attributes:
        alpha: Of the level that the step leaves.
        sigma: Likewise, above 0.
        next_alpha: Of the level that it leads to.
        next_sigma: Likewise.
    """

    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float

    @property
    def ratio(self) -> float:
        """`sigma / alpha` after the step over that before it, in [0, 1]; 0 where there was no signal."""
        return self.alpha * self.next_sigma / (self.next_alpha * self.sigma)

    @property
    def posterior_std(self) -> float:
        """Standard deviation of the forward process's posterior given x0 (Eq. 7, Ho et al. 2020)."""
        return self.next_sigma * math.sqrt(max(0.0, 1.0 - self.ratio**2))

    @property
    def forward_std(self) -> float:
        """`sqrt(beta)`: noise that the forward process adds over the step, in variance-preserving units.

        Scaled to the units of the level that the step leads to.
        """
        norm, next_norm = math.hypot(self.alpha, self.sigma), math.hypot(self.next_alpha, self.next_sigma)
        kept = (self.alpha / norm) * (next_norm / self.next_alpha)
        return next_norm * math.sqrt(max(0.0, 1.0 - kept**2))

    def mean(self, z: Tensor, x0: Tensor, std: float) -> Tensor:
        """Mean of the next state, when noise of this std is going to be added.

        Args:
            z: [B, C, H, W].
            x0: The clean estimate, same shape.
            std: At most `next_sigma`.
        """
        gain = math.sqrt(max(0.0, self.next_sigma**2 - std**2)) / self.sigma
        return torch.add(gain * z, x0, alpha=self.next_alpha - gain * self.alpha)


def moves(levels: NoiseLevels) -> list[Move]:
    """The N moves between N + 1 levels: numbers, so that no step waits for a device."""
    pairs = zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True)
    return [Move(*before, *after) for before, after in pairwise(pairs)]


def noised(z: Tensor, std: float | Tensor, generator: Generators | None) -> Tensor:
    """A state [B, C, H, W] with fresh noise of this std, which broadcasts against it."""
    noise = randn(z.shape, generator, device=z.device, dtype=z.dtype)
    return torch.add(z, noise, alpha=std) if isinstance(std, float) else z + std * noise


def walk(
    levels: NoiseLevels,
    config: SamplerConfig,
    stds: Sequence[float],
    denoise: Denoise,
    z: Tensor,
    generator: Generators | None,
) -> Iterator[Step]:
    """Take every move with a given amount of fresh noise, one call of `denoise` each.

    Args:
        levels: N + 1.
        config: Limits the clean estimate.
        stds: Of the noise that each of the N steps adds.
        denoise: Gives the clean estimate.
        z: [B, C, H, W] at the first level.
        generator: Of the noise.
    """
    z = at_least_float32(z)
    for index, (move, std) in enumerate(zip(moves(levels), stds, strict=True)):
        x0 = estimate(denoise, z, levels[index], config).x0
        z = move.mean(z, x0, std)
        if std > 0:
            z = noised(z, std, generator)
        yield Step(index, levels[index + 1], z, x0)
