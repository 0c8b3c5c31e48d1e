"""Euler's method over the levels of EDM, with churn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

from pydantic import Field
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoise, Generators, NoiseLevels, NoiseSchedule, Scheduler, Step, Trained
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import coordinates, spacing
from ldm_schedulers.churn import ChurnConfig, churned, raised
from ldm_schedulers.diffusers import edm
from ldm_schedulers.estimate import at_least_float32


class EDMEulerConfig(ChurnConfig):
    """Euler with churn; 50 steps by default, in the spacing of the paper."""

    prior_std: float | None = Field(
        default=None, gt=0, description="std of the noise that sampling starts from, in place of `prior`"
    )


@final
class EDMEuler(Scheduler):
    """Algorithm 2 of Karras et al. 2022 without its correction. First order.

    The network is asked after the noise has been raised, and at the raised level, as in the paper.

    Raises:
        ContractError: The first level holds no signal.
    """

    name = "edm-euler"
    diffusers_class = "EDMEulerScheduler"
    Config = EDMEulerConfig
    config: EDMEulerConfig

    def __init__(self, config: EDMEulerConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.stochastic = config.s_churn > 0
        found = spacing.levels(config, schedule, tokens)
        self._levels = NoiseLevels(found.alpha, found.sigma, config.prior_std or found.prior_std)
        self._points = coordinates.exploding(self._levels, self.name)
        count = len(self._points) - 1
        self._starts = [raised(point, config, count, schedule.scaling) for point in self._points[:-1]]

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        clean = coordinates.clean(denoise, self.config)
        y = at_least_float32(z) / self._points[0].scale
        for index, (point, start) in enumerate(zip(self._points, self._starts, strict=False)):
            end = self._points[index + 1]
            y = churned(y, point, start, self.config.s_noise, generator)
            x0 = clean(y, start)
            y = coordinates.euler(y, x0, start, end)
            yield Step(index, end.level, end.state(y), x0)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return edm.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        trained = Trained(prediction, schedule, time_scale)
        return edm.write_config(self.config, trained)
