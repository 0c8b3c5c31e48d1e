"""Euler's method on the probability-flow equation, its ancestral variant, and the flow-matching form.

All three are `ancestral.walk` with their own amount of noise: in `z / alpha` over `sigma / alpha` (Karras et
al. 2022) and in `z / (alpha + sigma)` over `sigma / (alpha + sigma)` (flow matching) an Euler step is the same
affine map of `z` and x0, and it is the step of DDIM (Gao et al. 2024, "Diffusion meets flow matching").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

from pydantic import Field
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoise, Generators, NoiseLevels, NoiseSchedule, Scheduler, Step, Trained
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import spacing
from ldm_schedulers.ancestral import moves, walk
from ldm_schedulers.diffusers import euler, flow
from ldm_schedulers.estimate import SamplerConfig


class EulerConfig(SamplerConfig):
    """Euler; 50 steps by default."""


class EulerAncestralConfig(SamplerConfig):
    """Euler with fresh noise at every step; 50 steps by default."""

    eta: float = Field(
        default=1.0, ge=0, le=1, description="fresh noise: 0 none (Euler) ... 1 the posterior's own std"
    )


class FlowEulerConfig(SamplerConfig):
    """Euler along the velocity; 50 steps by default."""

    stochastic_sampling: bool = Field(
        default=False,
        description="replace all noise by fresh noise at every step, as consistency models sample",
    )


@final
class Euler(Scheduler):
    """Algorithm 1 of Karras et al. 2022 without its correction and without churn. First order.

    By default the start has the marginal of unit-variance data, which is right for every schedule. With
    `prior: noise` it is noise of the first sigma alone, as diffusers starts unless its spacing is leading: 0.2 %
    less at the sigma_max of 14.6 of Stable Diffusion.
    """

    name = "euler"
    diffusers_class = "EulerDiscreteScheduler"
    Config = EulerConfig
    config: EulerConfig
    stochastic = False

    def __init__(self, config: EulerConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return euler.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return euler.write_config(
            self.config, len(self._levels) - 1, Trained(prediction, schedule, time_scale)
        )

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        return walk(self._levels, self.config, [0.0] * (len(self._levels) - 1), denoise, z, generator)


@final
class EulerAncestral(Scheduler):
    """Ancestral sampling as k-diffusion writes it: down to `sigma_down`, then noise of std `sigma_up`. First order.

    The same step as DDIM with this eta; the start as in `Euler`.
    """

    name = "euler-ancestral"
    diffusers_class = "EulerAncestralDiscreteScheduler"
    Config = EulerAncestralConfig
    config: EulerAncestralConfig

    def __init__(
        self, config: EulerAncestralConfig, schedule: NoiseSchedule, tokens: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.stochastic = config.eta > 0
        self._levels = spacing.levels(config, schedule, tokens)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return euler.read_ancestral(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return euler.write_ancestral(
            self.config, len(self._levels) - 1, Trained(prediction, schedule, time_scale)
        )

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        stds = [self.config.eta * move.posterior_std for move in moves(self._levels)]
        return walk(self._levels, self.config, stds, denoise, z, generator)


@final
class FlowEuler(Scheduler):
    """`z' = z + (t' - t) * velocity` (Alg. 1, Liu et al. 2023). First order.

    Made for flow schedules, right for every one. The first level may hold no signal, as it does at t = 1.
    """

    name = "flow-euler"
    diffusers_class = "FlowMatchEulerDiscreteScheduler"
    Config = FlowEulerConfig
    config: FlowEulerConfig

    def __init__(self, config: FlowEulerConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.stochastic = config.stochastic_sampling
        self._levels = spacing.levels(config, schedule, tokens)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return flow.read_euler(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return flow.write_euler(self.config, Trained(prediction, schedule, time_scale))

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        fresh = 1.0 if self.config.stochastic_sampling else 0.0
        stds = [fresh * move.next_sigma for move in moves(self._levels)]
        return walk(self._levels, self.config, stds, denoise, z, generator)
