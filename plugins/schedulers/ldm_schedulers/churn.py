"""Churn: noise that is added before a step is taken, so that the step has something to correct."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.interfaces import Generators, NoiseLevel
from ldm_registry.vocabulary import Scaling
from ldm_schedulers.ancestral import noised
from ldm_schedulers.coordinates import Point
from ldm_schedulers.estimate import SamplerConfig
from ldm_schedulers.tables import DOUBLE


class ChurnConfig(SamplerConfig):
    """The levels of EDM, and how much they are churned."""

    sigma_spacing: Literal["none", "karras", "exponential", "beta"] = Field(
        default="karras",
        description="space sigma / alpha by rho (Eq. 5, Karras et al. 2022), geometrically, or by the quantiles of a "
        "beta distribution (Lee et al. 2024)",
    )
    s_churn: float = Field(default=0.0, ge=0, description="noise added over all steps; 0 is deterministic")
    s_tmin: float = Field(default=0.0, ge=0, description="smallest sigma / alpha that is churned")
    s_tmax: float | None = Field(
        default=None, gt=0, description="largest sigma / alpha that is churned; null: any"
    )
    s_noise: float = Field(default=1.0, gt=0, description="std of the churn's noise")


def raised(point: Point, config: ChurnConfig, steps: int, scaling: Scaling) -> Point:
    """Where a step starts once its noise has been raised (line 5 of Algorithm 2, Karras et al. 2022).

    Args:
        point: Where it would start.
        config: Says how much; by at most 41 %.
        steps: N.
        scaling: Of the level.
    """
    top = math.inf if config.s_tmax is None else config.s_tmax
    if config.s_churn == 0.0 or not config.s_tmin <= point.time <= top:
        return point
    time = point.time * (1.0 + min(config.s_churn / steps, math.sqrt(2.0) - 1.0))
    level = NoiseLevel.at(torch.tensor(-2.0 * math.log(time), **DOUBLE), scaling)
    return Point(level, float(level.alpha), time)


def churned(y: Tensor, point: Point, start: Point, s_noise: float, generator: Generators | None) -> Tensor:
    """A state `y = z / alpha` [B, C, H, W] with the noise that raises it from one point to another (line 6)."""
    if start.time <= point.time:
        return y
    return noised(y, s_noise * math.sqrt(start.time**2 - point.time**2), generator)
