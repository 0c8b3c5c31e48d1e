"""Heun's method on the probability-flow equation, in two coordinates, and with the churn of EDM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import (
    Denoise,
    Generators,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    Trained,
)
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import coordinates, spacing
from ldm_schedulers.churn import ChurnConfig, churned, raised
from ldm_schedulers.coordinates import Point
from ldm_schedulers.diffusers import flow, heun
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate


class HeunConfig(SamplerConfig):
    """Heun; 50 steps by default, of two calls each but the last."""


class FlowHeunConfig(SamplerConfig):
    """Heun along the velocity; 50 steps by default, of two calls each but the last."""


class EDMHeunConfig(ChurnConfig):
    """Heun with churn; 50 steps by default, of two calls each but the last, in the spacing of the paper."""


def trapezoid(
    y: Tensor, x0: Tensor, start: Point, end: Point, clean: Callable[[Tensor, Point], Tensor]
) -> Tensor:
    """One step of Heun's method for `dy/dt = (y - x0) / t`; Euler's where it leads to t = 0.

    Args:
        y: [B, C, H, W] at the start.
        x0: The clean estimate there, same shape.
        start: Where the step starts.
        end: Where it leads.
        clean: Gives the clean estimate of a state at a point.
    """
    ahead = coordinates.euler(y, x0, start, end)
    if end.time == 0.0:
        return ahead
    half = 0.5 * (end.time - start.time)
    y = torch.add(y, y - x0, alpha=half / start.time)
    return torch.add(y, ahead - clean(ahead, end), alpha=half / end.time)


def walk(points: list[Point], config: SamplerConfig, denoise: Denoise, z: Tensor) -> Iterator[Step]:
    """Heun's method over all levels, in the coordinates of the points."""
    clean = coordinates.clean(denoise, config)
    z = at_least_float32(z)
    y = z / points[0].scale
    for index, (start, end) in enumerate(pairwise(points)):
        x0 = estimate(denoise, z, start.level, config).x0
        y = trapezoid(y, x0, start, end, clean)
        z = end.state(y)
        yield Step(index, end.level, z, x0)


@final
class Heun(Scheduler):
    """Algorithm 1 of Karras et al. 2022 over the schedule's own spacing. Second order in `sigma / alpha`.

    The start as in `Euler`.

    Raises:
        ContractError: The first level holds no signal.
    """

    name = "heun"
    diffusers_class = "HeunDiscreteScheduler"
    Config = HeunConfig
    config: HeunConfig
    stochastic = False

    def __init__(self, config: HeunConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)
        self._points = coordinates.exploding(self._levels, self.name)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return heun.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return heun.write_config(
            self.config, len(self._levels) - 1, Trained(prediction, schedule, time_scale)
        )

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, two calls of `denoise` a step; see `Scheduler.trajectory`."""
        return walk(self._points, self.config, denoise, z)


@final
class FlowHeun(Scheduler):
    """Heun's method along the velocity. Second order in `sigma / (alpha + sigma)`; alpha may start at 0."""

    name = "flow-heun"
    diffusers_class = "FlowMatchHeunDiscreteScheduler"
    Config = FlowHeunConfig
    config: FlowHeunConfig
    stochastic = False

    def __init__(self, config: FlowHeunConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)
        self._points = coordinates.straight(self._levels)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return flow.read_heun(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return flow.write_heun(self.config, Trained(prediction, schedule, time_scale))

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, two calls of `denoise` a step; see `Scheduler.trajectory`."""
        return walk(self._points, self.config, denoise, z)


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
        self._points = coordinates.exploding(self._levels, self.name)
        steps = len(self._points) - 1
        self._starts = [raised(point, config, steps, schedule.scaling) for point in self._points[:-1]]

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, two calls of `denoise` a step; see `Scheduler.trajectory`."""
        clean = coordinates.clean(denoise, self.config)
        y = at_least_float32(z) / self._points[0].scale
        for index, (point, start) in enumerate(zip(self._points, self._starts, strict=False)):
            y = churned(y, point, start, self.config.s_noise, generator)
            end = self._points[index + 1]
            x0 = clean(y, start)
            y = trapezoid(y, x0, start, end, clean)
            yield Step(index, end.level, end.state(y), x0)
