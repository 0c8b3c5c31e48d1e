"""Levels that are spaced in sigma itself, between two ends: by rho, geometrically, or by a beta distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_schedulers.beta_quantiles import beta_quantile
from ldm_schedulers.spacing_config import SpacingConfig
from ldm_schedulers.tables import DOUBLE


def sigma_spaced(config: SpacingConfig, ends: tuple[float, float], steps: int) -> Tensor:
    """`log(sigma / alpha)` of levels that are spaced as `sigma_spacing` says, noisiest first, float64 [N].

    Args:
        config: Says how.
        ends: `log(sigma / alpha)` of the cleanest and of the noisiest level.
        steps: N; a single level is the noisiest.

    Raises:
        SpecError: The range to space is empty or infinite.
    """
    low, high = _values(config, ends)
    match config.sigma_spacing:
        case "exponential":
            values = torch.linspace(math.log(high), math.log(low), steps, **DOUBLE).exp()
        case "beta":
            # From 1 downwards, as the authors sum it.
            shares = 1.0 - torch.linspace(0.0, 1.0, steps, **DOUBLE)
            values = low + beta_quantile(shares, *config.beta_shape) * (high - low)
        case _:
            root = 1.0 / config.rho
            values = torch.linspace(high**root, low**root, steps, **DOUBLE) ** config.rho
    if config.sigma_axis == "fraction":
        return values.log() - torch.log1p(-values.clamp(max=1.0))
    return values.log()


def _values(config: SpacingConfig, ends: tuple[float, float]) -> tuple[float, float]:
    """The two ends as numbers on the axis that is spaced."""
    low, high = ends
    problems = []
    if math.isinf(high) and config.sigma_axis == "ratio":
        problems.append("the noisiest level holds no signal, so its sigma / alpha is infinite; set sigma_max")
    if low == -math.inf:
        problems.append("the cleanest level holds no noise; set sigma_min above 0")
    if not problems and low >= high and config.sigma_ends == "schedule":
        problems.append(f"sigma_min {math.exp(low):g} has to lie below sigma_max {math.exp(high):g}")
    if problems:
        raise SpecError(f"sigma_spacing: {config.sigma_spacing} has no finite range to space", problems)
    if config.sigma_axis == "fraction":
        first, last = torch.tensor([low, high], **DOUBLE).sigmoid().tolist()
        return first, last
    return math.exp(low), math.exp(high)
