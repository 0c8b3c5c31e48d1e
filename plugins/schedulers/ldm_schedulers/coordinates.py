"""Coordinates in which the probability-flow equation reads `dy/dt = (y - x0) / t`.

Two choices have that form, and a solver of higher order gives different numbers in each:

===========  =====================  =========================
coordinates  y                      t
===========  =====================  =========================
exploding    z / alpha              sigma / alpha
straight     z / (alpha + sigma)    sigma / (alpha + sigma)
===========  =====================  =========================

Both depend on the log-SNR alone, so a variance-preserving, a variance-exploding and a flow schedule on one grid
of log-SNRs give one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Denoise, NoiseLevel, NoiseLevels
from ldm_schedulers.estimate import SamplerConfig, estimate


@dataclass(frozen=True, slots=True)
class Point:
    """One level in coordinates: numbers, so that no step waits for a device.

    Attributes:
        level: As the denoiser is told.
        scale: `z = scale * y`.
        time: t.
    """

    level: NoiseLevel
    scale: float
    time: float

    def state(self, y: Tensor) -> Tensor:
        """z of y [B, C, H, W]; y itself in exploding coordinates of a variance-exploding schedule."""
        return y if self.scale == 1.0 else self.scale * y


def exploding(levels: NoiseLevels, sampler: str) -> list[Point]:
    """`y = z / alpha`, `t = sigma / alpha` (Karras et al. 2022).

    Args:
        levels: Each with some signal, noisiest first.
        sampler: Who asks; for the message.

    Raises:
        ContractError: The first level holds no signal, where t is infinite.
    """
    if float(levels.alpha[0]) == 0.0:
        raise ContractError(
            f"{sampler} cannot start at a level without signal (alpha = 0)",
            [
                "it integrates over sigma / alpha, which is infinite there; the scheduler's first level has alpha = 0"
            ],
            "set a finite start (sigma_max with spacing: linspace or sigma_spacing: karras, or timesteps), or use "
            "ddim, euler, dpmpp-2m or flow-heun, which need no such start",
        )
    return _points(levels, levels.alpha)


def straight(levels: NoiseLevels) -> list[Point]:
    """`y = z / (alpha + sigma)`, `t = sigma / (alpha + sigma)` in [0, 1] (Liu et al. 2023)."""
    return _points(levels, levels.alpha + levels.sigma)


def _points(levels: NoiseLevels, scale: Tensor) -> list[Point]:
    times = (levels.sigma / scale).tolist()
    return [Point(*all_of) for all_of in zip(levels, scale.tolist(), times, strict=True)]


def clean(denoise: Denoise, config: SamplerConfig) -> Callable[[Tensor, Point], Tensor]:
    """A function that gives the clean estimate for a state y at a point.

    Args:
        denoise: Asked with `z`.
        config: Limits the estimate.
    """

    def ask(y: Tensor, at: Point) -> Tensor:
        return estimate(denoise, at.state(y), at.level, config).x0

    return ask


def euler(y: Tensor, x0: Tensor, start: Point, end: Point) -> Tensor:
    """Euler's step, in the form that ends exactly at x0 for t = 0."""
    return torch.lerp(x0, y, end.time / start.time)
