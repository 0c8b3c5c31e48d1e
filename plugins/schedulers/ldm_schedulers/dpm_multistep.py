"""DPM-Solver and DPM-Solver++, multistep, of order 1 to 3, along the flow or with fresh noise at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, final

from pydantic import Field
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
from ldm_registry.prediction import to_epsilon
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import multistep_spacing
from ldm_schedulers.ancestral import noised
from ldm_schedulers.diffusers import dpm_multistep
from ldm_schedulers.estimate import at_least_float32, estimate
from ldm_schedulers.exponential import Combination, Stride, finite_before, moments, strides
from ldm_schedulers.multistep_spacing import MultistepConfig

_FEW_STEPS = 15
"""Below it `lower_order_final` takes effect, as in the authors' code and in diffusers."""


class DPMMultistepConfig(MultistepConfig):
    """DPM-Solver over whole training steps; 50 by default, and 20 are often enough."""

    algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"] = Field(
        default="dpmsolver++",
        description="extrapolate the clean estimate (++) or the noise; sde: add fresh noise at every step",
    )
    solver_order: Literal[1, 2, 3] = Field(
        default=2, description="1 is DDIM; 2 and 3 use the estimates of one and two steps before"
    )
    solver_type: Literal["midpoint", "heun"] = Field(
        default="midpoint",
        description="how the term of order 2 is weighted (Sec. 4.1 of the paper, or its appendix); order 3 has one way",
    )
    second_difference: Literal["half", "whole"] = Field(
        default="half",
        description="weight of the newest term of order 3: half, as the authors' code has it, which is of second order "
        "but steadier where steps lengthen, as evenly spaced times do; or whole, which is of third order",
    )
    lower_order_final: bool = Field(
        default=True,
        description="with fewer than 15 steps, take the last with order 1 and the last but one with at most 2",
    )
    euler_at_final: bool = Field(default=False, description="take the last step with order 1")
    lambda_min_clipped: float | None = Field(
        default=None,
        description="smallest log(alpha / sigma) that evenly spaced times may start from; null for no limit",
    )


@final
class DPMMultistep(Scheduler):
    """DPM-Solver (Lu et al. 2022), DPM-Solver++ and its SDE form (Lu et al. 2022, "fast solver for guided sampling").

    The estimates of up to three steps are put through a polynomial in log(alpha / sigma), which is integrated exactly
    (`exponential`). The SDE forms take the same polynomial with twice the drift, and noise of the exact posterior
    variance.

    A step of infinite length, from a level without signal or to one without noise, is always taken in the data form
    with order 1, which is exact for a constant estimate.
    """

    name = "dpm-multistep"
    diffusers_class = "DPMSolverMultistepScheduler"
    Config = DPMMultistepConfig
    config: DPMMultistepConfig

    def __init__(
        self, config: DPMMultistepConfig, schedule: NoiseSchedule, tokens: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.stochastic = config.algorithm_type.startswith("sde")
        self._levels = multistep_spacing.levels(config, schedule, tokens, config.lambda_min_clipped)
        steps = strides(self._levels)
        lengths = [step.length for step in steps]
        self._updates = [_update(config, step, lengths, index) for index, step in enumerate(steps)]
        self._noise = [_noise(config, step) for step in steps]

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        z, history = at_least_float32(z), list[Tensor]()
        for index, (update, std) in enumerate(zip(self._updates, self._noise, strict=True)):
            level = self._levels[index]
            x0 = estimate(denoise, z, level, self.config).x0
            newest = x0 if self.config.algorithm_type.endswith("++") else to_epsilon(x0, z, level)
            history = [newest, *history[: self.config.solver_order - 1]]
            z = update.applied(z, history if update.of_noise else [x0, *history[1:]])
            if std > 0:
                z = noised(z, std, generator)
            yield Step(index, self._levels[index + 1], z, x0)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return dpm_multistep.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        trained = Trained(prediction, schedule, time_scale)
        return dpm_multistep.write_config(self.config, len(self._levels) - 1, trained)


def _order(config: DPMMultistepConfig, lengths: list[float], index: int) -> int:
    """What order a step is taken with."""
    left, few = len(lengths) - index, config.lower_order_final and len(lengths) < _FEW_STEPS
    order = min(config.solver_order, 1 + finite_before(lengths, index))
    whole = 0.0 < lengths[index] < math.inf
    if not whole or (left == 1 and (few or config.euler_at_final)):
        return 1
    return min(order, 2) if left == 2 and few else order


def _update(config: DPMMultistepConfig, step: Stride, lengths: list[float], index: int) -> Combination:
    """A step of the solver as numbers, without its noise."""
    h, order = step.length, _order(config, lengths, index)
    rate = 2.0 if config.algorithm_type.startswith("sde") else 1.0
    of_noise = not (config.algorithm_type.endswith("++") or math.isinf(h))
    if of_noise:
        gain, scale = step.next_alpha / step.alpha, rate * step.next_sigma
        integrals = moments(-h, order)
    else:
        gain, scale = step.next_sigma / step.sigma, step.next_alpha
        gain = gain * math.exp(-h) if rate == 2.0 else gain
        integrals = moments(rate * h, order)
    if order == 2 and config.solver_type == "midpoint":
        integrals[1] = 0.5 * integrals[0]
    if order == 3 and config.second_difference == "half":
        integrals[2] = 0.5 * integrals[2]
    weights = _over_history(integrals, h, lengths, index)
    return Combination(gain, tuple(scale * weight for weight in weights), of_noise)


def _noise(config: DPMMultistepConfig, step: Stride) -> float:
    """Standard deviation of the fresh noise of a step."""
    if not config.algorithm_type.startswith("sde"):
        return 0.0
    std = step.next_sigma * math.sqrt(-math.expm1(-2.0 * step.length))
    in_data = config.algorithm_type.endswith("++") or math.isinf(step.length)
    return std if in_data else std * math.exp(step.length)


def _over_history(integrals: list[float], h: float, lengths: list[float], index: int) -> list[float]:
    """Weights of a polynomial's powers of u / h, as weights of the estimates it passes through, newest first."""
    if len(integrals) == 1:
        return integrals
    near = h / lengths[index - 1]
    if len(integrals) == 2:
        return [integrals[0] + near * integrals[1], -near * integrals[1]]
    far, both = h / lengths[index - 2], h / (lengths[index - 1] + lengths[index - 2])
    # Newton's divided differences: the slope at the newest estimate, and half of the second derivative.
    bend = [both * near, -both * (near + far), both * far]
    slope = [near, -near, 0.0]
    bent = integrals[2] + integrals[1] / near
    flat = [integrals[0], 0.0, 0.0]
    return [
        one + integrals[1] * two + bent * three for one, two, three in zip(flat, slope, bend, strict=True)
    ]
