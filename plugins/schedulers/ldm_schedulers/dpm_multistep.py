"""DPM-Solver and DPM-Solver++, multistep, of order 1 to 3, along the flow or with fresh noise at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

from pydantic import Field
from torch import Tensor

from ldm_registry.interfaces import (
    Denoise,
    Generators,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    randn,
)
from ldm_schedulers import multistep_spacing
from ldm_schedulers.estimate import at_least_float32, estimate
from ldm_schedulers.exponential import Stride, finite_before, moments, strides
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
    lower_order_final: bool = Field(
        default=True,
        description="with fewer than 15 steps, take the last with order 1 and the last but one with at most 2",
    )
    euler_at_final: bool = Field(default=False, description="take the last step with order 1")
    lambda_min_clipped: float | None = Field(
        default=None,
        description="smallest log(alpha / sigma) that evenly spaced times may start from; null for no limit",
    )


@dataclass(frozen=True, slots=True)
class Update:
    """One step: `z' = gain * z + sum of weights * estimates + noise * fresh noise`.

    Attributes:
        gain: Of z.
        weights: Of the last estimates, newest first.
        noise: Standard deviation of the fresh noise.
        of_noise: The estimates are of the noise, not of the clean latent.
    """

    gain: float
    weights: tuple[float, ...]
    noise: float
    of_noise: bool


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

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        z, history = at_least_float32(z), list[Tensor]()
        for index, update in enumerate(self._updates):
            level = self._levels[index]
            x0 = estimate(denoise, z, level, self.config).x0
            newest = x0
            if not self.config.algorithm_type.endswith("++"):
                newest = (z - float(level.alpha) * x0) / float(level.sigma)
            history = [newest, *history[:2]]
            used = history if update.of_noise else [x0, *history[1:]]
            z = update.gain * z
            for weight, past in zip(update.weights, used, strict=False):
                z = z + weight * past
            if update.noise > 0:
                z = z + update.noise * randn(z.shape, generator, device=z.device, dtype=z.dtype)
            yield Step(index, self._levels[index + 1], z, x0)


def _order(config: DPMMultistepConfig, lengths: list[float], index: int) -> int:
    """What order a step is taken with."""
    left, few = len(lengths) - index, config.lower_order_final and len(lengths) < _FEW_STEPS
    order = min(config.solver_order, 1 + finite_before(lengths, index))
    if math.isinf(lengths[index]) or (left == 1 and (few or config.euler_at_final)):
        return 1
    return min(order, 2) if left == 2 and few else order


def _update(config: DPMMultistepConfig, step: Stride, lengths: list[float], index: int) -> Update:
    """A step of the solver as numbers."""
    kind, h = config.algorithm_type, step.length
    rate = 2.0 if kind.startswith("sde") else 1.0
    order = _order(config, lengths, index)
    fresh = math.sqrt(-math.expm1(-2.0 * h)) if rate == 2.0 else 0.0
    if kind.endswith("++") or math.isinf(h):
        gain = step.next_sigma / step.sigma * math.exp(-(rate - 1.0) * h)
        scale, integrals = step.next_alpha, moments(rate * h, order)
    else:
        gain = step.next_alpha / step.alpha
        scale, integrals = rate * step.next_sigma, moments(-h, order)
        fresh = fresh * math.exp(h)
    if order == 2 and config.solver_type == "midpoint":
        integrals[1] = 0.5 * integrals[0]
    weights = tuple(scale * weight for weight in _over_history(integrals, h, lengths, index))
    return Update(gain, weights, step.next_sigma * fresh, not (kind.endswith("++") or math.isinf(h)))


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
    return [one + integrals[1] * two + bent * three for one, two, three in zip(flat, slope, bend, strict=True)]
