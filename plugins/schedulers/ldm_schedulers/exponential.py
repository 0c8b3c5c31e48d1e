"""What multistep solvers in log-SNR have in common: lengths of steps, and the integrals that weigh their terms.

With `lambda = log(alpha / sigma)` the probability flow is linear but for one term (Eq. 3.3 and 8, Lu et al. 2022):

    z' = sigma'/sigma * z + alpha' * integral of exp(-(h - u)) * x0(u)      over u in [0, h]      data form
    z' = alpha'/alpha * z - sigma' * integral of exp(h - u) * epsilon(u)    over u in [0, h]      noise form

and a solver replaces x0(u) or epsilon(u) by a polynomial through the last estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm_registry.interfaces import NoiseLevels

_SERIES_BELOW = 0.05
"""Below it the recursion for the moments loses more digits than eight terms of the series leave out."""


@dataclass(frozen=True, slots=True)
class Stride:
    """One step as numbers, so that none waits for a device.

    Attributes:
        alpha: Of the level that the step leaves.
        sigma: Likewise, above 0.
        next_alpha: Of the level that it leads to.
        next_sigma: Likewise.
        length: h, the rise of `log(alpha / sigma)`; infinite from a level without signal and to one without noise.
    """

    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float
    length: float


@dataclass(frozen=True, slots=True)
class Combination:
    """`z' = gain * z + sum of weights * estimates`.

    Attributes:
        gain: Of z.
        weights: Of the last estimates, newest first.
        of_noise: The estimates are of the noise, and not of the clean latent.
    """

    gain: float
    weights: tuple[float, ...]
    of_noise: bool = False

    def applied(self, z: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        """z' for a state [B, C, H, W] and at least as many estimates as there are weights, newest first."""
        z = self.gain * z
        for weight, past in zip(self.weights, estimates, strict=False):
            z = torch.add(z, past, alpha=weight)
        return z


def strides(levels: NoiseLevels) -> list[Stride]:
    """The N steps between N + 1 levels."""
    pairs = pairwise(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
    lengths = (0.5 * levels.log_snr).diff().tolist()
    return [Stride(*before, *after, length) for (before, after), length in zip(pairs, lengths, strict=True)]


def finite_before(lengths: list[float], index: int) -> int:
    """How many steps of finite length above 0 lie directly before a step: as many differences are known there."""
    count = 0
    while count < index and 0.0 < lengths[index - 1 - count] < math.inf:
        count += 1
    return count


def moments(length: float, count: int) -> list[float]:
    """`integral of exp(-(H - v)) * (v / H)**k over v in [0, H]` for k = 0 ... count - 1.

    For the noise form take `-moments(-h)`: the integral of `exp(h - u) * (u / h)**k` over u in [0, h].

    Args:
        length: H, of either sign; infinite gives 1 for k = 0 and is of no use beyond.
        count: How many.
    """
    if abs(length) < _SERIES_BELOW:
        return [_series(length, power) for power in range(count)]
    found = [-math.expm1(-length)]
    for power in range(1, count):
        found.append(1.0 - power * found[-1] / length)
    return found


def _series(length: float, power: int) -> float:
    terms = ((-length) ** n / math.factorial(n + power + 1) for n in range(9))
    return length * math.factorial(power) * math.fsum(terms)
