"""Linear multistep: Adams-Bashforth over uneven steps, on the probability-flow equation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoise, Generators, NoiseLevels, NoiseSchedule, Scheduler, Step, Trained
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import coordinates, spacing
from ldm_schedulers.diffusers import lms
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate

_GAUSS = 1 / math.sqrt(3)
"""The two points of Gauss-Legendre on [-1, 1]: exact for cubics, and no polynomial here is of higher degree."""


class LMSConfig(SamplerConfig):
    """Linear multistep; 50 steps by default."""

    order: Literal[1, 2, 3, 4] = Field(
        default=4, description="how many slopes are extrapolated; 1 is Euler, the first steps have fewer"
    )


@final
class LMS(Scheduler):
    """Linear multistep as k-diffusion writes it: `dy/dt = (y - x0) / t` over `t = sigma / alpha`.

    The slopes of the last steps are put through a polynomial in t, which is integrated exactly over the step.

    Raises:
        ContractError: The first level holds no signal.
    """

    name = "lms"
    diffusers_class = "LMSDiscreteScheduler"
    Config = LMSConfig
    config: LMSConfig
    stochastic = False

    def __init__(self, config: LMSConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)
        self._points = coordinates.exploding(self._levels, self.name)
        times = [point.time for point in self._points]
        self._weights = [_weights(times, index, config.order) for index in range(len(times) - 1)]

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        z = at_least_float32(z)
        y, history = z / self._points[0].scale, list[Tensor]()
        for index, (start, end) in enumerate(pairwise(self._points)):
            x0 = estimate(denoise, z, start.level, self.config).x0
            history = [(y - x0) / start.time, *history[: self.config.order - 1]]
            for weight, slope in zip(self._weights[index], history, strict=True):
                y = torch.add(y, slope, alpha=weight)
            z = end.state(y)
            yield Step(index, end.level, z, x0)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return lms.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        trained = Trained(prediction, schedule, time_scale)
        return lms.write_config(self.config, len(self._levels) - 1, trained)


def _weights(times: list[float], index: int, order: int) -> list[float]:
    """Integrals of the Lagrange polynomials of the last times over one step, newest first."""
    start, end = times[index], times[index + 1]
    nodes = times[max(0, index + 1 - order) : index + 1][::-1]
    middle, half = 0.5 * (start + end), 0.5 * (end - start)
    points = (middle - _GAUSS * half, middle + _GAUSS * half)
    return [half * sum(_lagrange(point, nodes, which) for point in points) for which in range(len(nodes))]


def _lagrange(at: float, nodes: list[float], which: int) -> float:
    """The polynomial that is 1 at one node and 0 at the others."""
    own = nodes[which]
    return math.prod((at - node) / (own - node) for node in nodes if node != own)
