"""Quantiles of the beta distribution in float64, so that spacing by them needs no library beyond torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TERMS = 60
"""Of a series whose terms at least halve: more than float64 can tell."""

_ITERATIONS = 16
"""Of Newton's method, which gains digits twofold a step; twelve are enough for shapes between 0.3 and 5."""

_SETTLED = 4e-15
"""A move of the logarithm that is no more than rounding."""


def beta_quantile(share: Tensor, a: float, b: float) -> Tensor:
    """The x below which a share of the beta distribution lies.

    Args:
        share: In [0, 1], any shape; float64 on the CPU.
        a: First shape, above 0.
        b: Second shape, above 0.

    Returns:
        x in [0, 1], float64, the same shape; exact to about 1e-14 relative to the nearer end.
    """
    half = float(_log_share(torch.tensor(math.log(0.5), dtype=torch.float64, device="cpu"), a, b).exp())
    lower = _lower_quantile(share.clamp(max=half), a, b)
    upper = _lower_quantile((1.0 - share).clamp(max=1.0 - half), b, a)
    return torch.where(share <= half, lower, 1.0 - upper)


def _log_share(log_x: Tensor, a: float, b: float) -> Tensor:
    """Logarithm of the share below x, for x up to 1/2: the power series of the incomplete beta function.

    `I_x(a, b) = x**a / B(a, b) * sum over n of (1 - b)_n / (n! (a + n)) * x**n` (DLMF 8.17.7).
    """
    x, total, factor = log_x.exp(), torch.full_like(log_x, 1.0 / a), torch.ones_like(log_x)
    for n in range(1, _TERMS):
        factor = factor * x * ((n - b) / n)
        total = total + factor / (a + n)
    return a * log_x + total.log() - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _lower_quantile(share: Tensor, a: float, b: float) -> Tensor:
    """The quantile where it is at most 1/2: Newton's method on the logarithms of both."""
    target, limit = share.log(), math.log(0.5)
    log_x = ((target + math.log(a) + _log_beta(a, b)) / a).clamp(max=limit)
    for _ in range(_ITERATIONS):
        found = _log_share(log_x, a, b)
        density = (a - 1.0) * log_x + (b - 1.0) * torch.log1p(-log_x.exp()) - _log_beta(a, b)
        move = (target - found) * (found - density - log_x).exp()
        log_x = (log_x + move).clamp(max=limit)
        if bool((move.abs() <= _SETTLED)[share > 0].all()):
            break
    return torch.where(share > 0, log_x.exp(), torch.zeros_like(share))
