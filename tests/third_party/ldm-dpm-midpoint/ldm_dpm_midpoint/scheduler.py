"""The scheduler `dpm-midpoint`: the single-step solver of second order, with two calls a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from ldm_registry.interfaces import (
    ComponentConfig,
    Denoise,
    Generators,
    NoiseLevel,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
)
from pydantic import Field
from torch import Tensor


class SchedulerConfig(ComponentConfig):
    """How many steps it takes."""

    steps: int = Field(
        default=12, ge=1, description="Number of steps; all but the ends call the network twice."
    )


@final
class DpmMidpointScheduler(Scheduler):
    """DPM-Solver-2 (Algorithm 1, Lu et al. 2022) in its data prediction form (DPM-Solver++)."""

    name = "dpm-midpoint"
    Config = SchedulerConfig
    config: SchedulerConfig

    def __init__(self, config: SchedulerConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.schedule = schedule

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first and evenly spaced in time; the last has no noise at all."""
        cleanest, noisiest = self.schedule.time_range
        times = torch.linspace(noisiest, cleanest, self.config.steps + 1, dtype=torch.float64, device="cpu")
        level = self.schedule.level(times[:-1])
        alpha, sigma = level.alpha.new_ones(1), level.sigma.new_zeros(1)
        return NoiseLevels(torch.cat([level.alpha, alpha]), torch.cat([level.sigma, sigma]))

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, as `Scheduler.trajectory` says."""
        levels = self.levels()
        for index in range(len(levels) - 1):
            here, there = levels[index], levels[index + 1]
            x0 = denoise(z, here).x0
            middle = self.between(here, there)
            if middle is not None:
                x0 = denoise(moved(z, x0, here, middle), middle).x0
            z = moved(z, x0, here, there)
            yield Step(index, there, z, x0)

    def between(self, here: NoiseLevel, there: NoiseLevel) -> NoiseLevel | None:
        """The level halfway in log-SNR; None beside an end without signal or without noise."""
        log_snr = 0.5 * (here.log_snr + there.log_snr)
        return NoiseLevel.at(log_snr, self.schedule.scaling) if bool(log_snr.isfinite()) else None


def moved(z: Tensor, x0: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """The exact solution between two levels for a clean estimate that stays the same."""
    kept = float(there.sigma / here.sigma)
    return kept * z + (float(there.alpha) - kept * float(here.alpha)) * x0
