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

from dataclasses import dataclass

from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import NoiseLevels


@dataclass(frozen=True, slots=True)
class Coordinates:
    """One sequence of levels, as numbers.

    Attributes:
        scale: `z = scale * y`, one for each level.
        time: t, one for each level, falling.
    """

    scale: list[float]
    time: list[float]


def exploding(levels: NoiseLevels, sampler: str) -> Coordinates:
    """`y = z / alpha`, `t = sigma / alpha` (Karras et al. 2022).

    Args:
        levels: N + 1, each with some signal.
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
    return Coordinates(levels.alpha.tolist(), (levels.sigma / levels.alpha).tolist())


def straight(levels: NoiseLevels) -> Coordinates:
    """`y = z / (alpha + sigma)`, `t = sigma / (alpha + sigma)` in [0, 1] (Liu et al. 2023)."""
    total = levels.alpha + levels.sigma
    return Coordinates(total.tolist(), (levels.sigma / total).tolist())


def euler(y: Tensor, x0: Tensor, time: float, next_time: float) -> Tensor:
    """Euler's step, in the form that ends exactly at x0 for `next_time = 0`."""
    kept = next_time / time
    return kept * y + (1.0 - kept) * x0
