"""What a component under test is put beside: a schedule to be trained on, and a denoiser that needs no weights."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.interfaces import (
    ComponentConfig,
    Denoised,
    NoiseLevel,
    NoiseSchedule,
    Trained,
)
from ldm_registry.vocabulary import Prediction, Scaling


class StraightConfig(ComponentConfig):
    """Config of the stand-in schedule."""

    steps: int = Field(1000, ge=2, description="T, the number of steps.")
    end_nats: float = Field(9.0, gt=0, description="log-SNR runs from this down to its negative, nats.")


@final
class StraightSchedule(NoiseSchedule):
    """log-SNR on a straight line through the steps. A stand-in for tests; no plugin supplies it."""

    name = "straight"
    Config = StraightConfig
    scaling = Scaling.VP
    config: StraightConfig

    def __init__(self, config: StraightConfig) -> None:
        super().__init__()
        self.config = config
        self.steps = config.steps
        self.time_range = (0.0, config.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at a time (any shape), in float64."""
        share = time.to("cpu", torch.float64) / (self.config.steps - 1)
        return NoiseLevel.at(self.config.end_nats * (1 - 2 * share), self.scaling)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level, float64; rounded to a billionth of a step, so that integers come back as such."""
        share = (1 - level.log_snr / self.config.end_nats) / 2
        return (share.clamp(0, 1) * (self.config.steps - 1)).round(decimals=9)


def trained_on_stand_in() -> Trained:
    """As if trained to predict epsilon on 1000 steps of the stand-in schedule."""
    return Trained(Prediction.EPSILON, StraightSchedule(StraightConfig()))


def shrink(z: Tensor, level: NoiseLevel) -> Denoised:
    """The exact denoiser of standard normal data: `alpha z / (alpha**2 + sigma**2)`."""
    alpha, sigma = level.scales(z)
    return Denoised(alpha * z / (alpha**2 + sigma**2))
