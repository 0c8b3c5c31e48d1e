"""Heun's method on the probability-flow equation, in two coordinates, and with the churn of EDM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.interfaces import (
    Denoise,
    Generators,
    NoiseLevel,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    randn,
)
from ldm_schedulers import coordinates, spacing
from ldm_schedulers.coordinates import Coordinates
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate
from ldm_schedulers.tables import DOUBLE


class HeunConfig(SamplerConfig):
    """Heun; 50 steps by default, of two calls each but the last."""


class FlowHeunConfig(SamplerConfig):
    """Heun along the velocity; 50 steps by default, of two calls each but the last."""


class EDMHeunConfig(SamplerConfig):
    """Heun with churn; 50 steps by default, of two calls each but the last, in the spacing of the paper."""

    sigma_spacing: Literal["none", "karras", "exponential"] = Field(
        default="karras",
        description="space sigma / alpha by rho (Eq. 5, Karras et al. 2022) or geometrically",
    )
    s_churn: float = Field(default=0.0, ge=0, description="noise added over all steps; 0 is deterministic")
    s_tmin: float = Field(default=0.0, ge=0, description="smallest sigma / alpha that is churned")
    s_tmax: float | None = Field(
        default=None, gt=0, description="largest sigma / alpha that is churned; null: any"
    )
    s_noise: float = Field(default=1.0, gt=0, description="std of the churn's noise")


def trapezoid(
    y: Tensor, x0: Tensor, time: float, next_time: float, next_x0: Callable[[Tensor], Tensor]
) -> Tensor:
    """One step of Heun's method for `dy/dt = (y - x0) / t`; Euler's where it leads to t = 0.

    Args:
        y: [B, C, H, W].
        x0: The clean estimate at `time`, same shape.
        time: t.
        next_time: Where the step leads.
        next_x0: Gives the clean estimate for a state at `next_time`.
    """
    ahead = coordinates.euler(y, x0, time, next_time)
    if next_time == 0.0:
        return ahead
    slope = (y - x0) / time + (ahead - next_x0(ahead)) / next_time
    return y + 0.5 * (next_time - time) * slope


def walk(
    levels: NoiseLevels, at: Coordinates, config: SamplerConfig, denoise: Denoise, z: Tensor
) -> Iterator[Step]:
    """Heun's method over all levels in the given coordinates."""
    y = at_least_float32(z) / at.scale[0]
    for index in range(len(levels) - 1):
        following, scale = levels[index + 1], at.scale[index + 1]
        x0 = estimate(denoise, at.scale[index] * y, levels[index], config).x0

        def next_x0(ahead: Tensor, level: NoiseLevel = following, scale: float = scale) -> Tensor:
            return estimate(denoise, scale * ahead, level, config).x0

        y = trapezoid(y, x0, at.time[index], at.time[index + 1], next_x0)
        yield Step(index, following, scale * y, x0)


@final
class Heun(Scheduler):
    """Algorithm 1 of Karras et al. 2022 over the schedule's own spacing. Second order in `sigma / alpha`.

    `levels().prior_std` is None; see `Euler` for what diffusers does.

    Raises:
        ContractError: The first level holds no signal.
    """

    name = "heun"
    Config = HeunConfig
    config: HeunConfig
    stochastic = False

    def __init__(self, config: HeunConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)
        self._at = coordinates.exploding(self._levels, self.name)

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, two calls of `denoise` a step; see `Scheduler.trajectory`."""
        return walk(self._levels, self._at, self.config, denoise, z)


@final
class FlowHeun(Scheduler):
    """Heun's method along the velocity. Second order in `sigma / (alpha + sigma)`; alpha may start at 0."""

    name = "flow-heun"
    Config = FlowHeunConfig
    config: FlowHeunConfig
    stochastic = False

    def __init__(self, config: FlowHeunConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, two calls of `denoise` a step; see `Scheduler.trajectory`."""
        return walk(self._levels, coordinates.straight(self._levels), self.config, denoise, z)


@final
class EDMHeun(Scheduler):
    """Algorithm 2 of Karras et al. 2022. Second order without churn.

    Churn raises the noise of a step by up to 41 % before it is taken; on the first steps that may lie above
    the noisiest level of `levels()`.

    Raises:
        ContractError: The first level holds no signal.
    """

    name = "edm-heun"
    Config = EDMHeunConfig
    config: EDMHeunConfig

    def __init__(self, config: EDMHeunConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.stochastic = config.s_churn > 0
        self._levels = spacing.levels(config, schedule, tokens)
        self._at = coordinates.exploding(self._levels, self.name)
        self._churned = self._churned_times()
        log_snr = -2.0 * torch.tensor(self._churned, **DOUBLE).log()
        self._start = NoiseLevel.at(log_snr, schedule.scaling)

    def _churned_times(self) -> list[float]:
        """`sigma / alpha` that each step starts from, once its noise has been raised."""
        config, times = self.config, self._at.time[:-1]
        top = math.inf if config.s_tmax is None else config.s_tmax
        gamma = min(config.s_churn / len(times), math.sqrt(2.0) - 1.0)
        return [time * (1.0 + gamma) if config.s_tmin <= time <= top else time for time in times]

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, two calls of `denoise` a step; see `Scheduler.trajectory`."""
        y, scales = at_least_float32(z) / self._at.scale[0], self._start.alpha.tolist()
        for index, (scale, churned) in enumerate(zip(scales, self._churned, strict=True)):
            time, next_time = self._at.time[index], self._at.time[index + 1]
            if churned > time:
                noise = randn(y.shape, generator, device=y.device, dtype=y.dtype)
                y = y + self.config.s_noise * math.sqrt(churned**2 - time**2) * noise
            level = NoiseLevel(self._start.alpha[index], self._start.sigma[index])
            x0 = estimate(denoise, scale * y, level, self.config).x0
            following, next_scale = self._levels[index + 1], self._at.scale[index + 1]

            def next_x0(ahead: Tensor, level: NoiseLevel = following, scale: float = next_scale) -> Tensor:
                return estimate(denoise, scale * ahead, level, self.config).x0

            y = trapezoid(y, x0, churned, next_time, next_x0)
            yield Step(index, following, next_scale * y, x0)
