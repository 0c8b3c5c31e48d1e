"""DPM-Solver++, the multistep data-prediction solver of order 1 or 2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.interfaces import Denoise, Generators, NoiseLevels, NoiseSchedule, Scheduler, Step
from ldm_schedulers import spacing
from ldm_schedulers.ancestral import moves
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate

_FEW_STEPS = 15
"""Below it `lower_order_final` takes effect, as in the authors' code and in diffusers."""


class DPMpp2MConfig(SamplerConfig):
    """DPM-Solver++(2M) over whole training steps; 50 by default, and 20 are often enough."""

    round_times: bool = Field(
        default=True, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    order: Literal[1, 2] = Field(default=2, description="1 is DDIM, 2 uses the estimate of the step before")
    solver_type: Literal["midpoint", "heun"] = Field(
        default="midpoint",
        description="how the second-order term is weighted (Sec. 4.1 or the appendix of the paper)",
    )
    lower_order_final: bool = Field(
        default=True, description="take the last step with order 1 when there are fewer than 15 steps"
    )
    skip_cleanest: bool = Field(
        default=True,
        description="space `leading` and `linspace` times for N + 1 steps without the cleanest, as diffusers does",
    )


@final
class DPMpp2M(Scheduler):
    """Algorithm 2 of Lu et al. 2022 (DPM-Solver++). Second order in log-SNR.

    With `h = log(alpha'/sigma') - log(alpha/sigma)` and `D` the difference of the last two clean estimates over
    the step between them, times h:

        z' = sigma'/sigma * z + alpha' * (1 - exp(-h)) * (x0 + D / 2)                           midpoint
        z' = sigma'/sigma * z + alpha' * ((1 - exp(-h)) * x0 + (1 - (1 - exp(-h)) / h) * D)     heun

    A step to a level without noise has infinite h and is always taken with order 1. A first level without signal
    works: its step has no use for `z` beyond x0, and the next step falls back to order 1 by itself.
    """

    name = "dpmpp-2m"
    Config = DPMpp2MConfig
    config: DPMpp2MConfig
    stochastic = False

    def __init__(self, config: DPMpp2MConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens, skip_cleanest=config.skip_cleanest)

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        z, before = at_least_float32(z), None
        strides = (0.5 * self._levels.log_snr).diff().tolist()
        for index, move in enumerate(moves(self._levels)):
            x0 = estimate(denoise, z, self._levels[index], self.config).x0
            z = torch.add(move.next_sigma / move.sigma * z, x0, alpha=move.next_alpha * (1.0 - move.ratio))
            if before is not None and self._second_order(index, strides):
                slope = move.next_alpha * self._weight(strides[index]) * strides[index] / strides[index - 1]
                z = torch.add(z, x0 - before, alpha=slope)
            before = x0
            yield Step(index, self._levels[index + 1], z, x0)

    def _second_order(self, index: int, strides: list[float]) -> bool:
        last, few = index == len(strides) - 1, len(strides) < _FEW_STEPS
        lowered = last and few and self.config.lower_order_final
        return self.config.order == 2 and 0.0 < strides[index] < math.inf and not lowered

    def _weight(self, stride: float) -> float:
        removed = -math.expm1(-stride)
        return 0.5 * removed if self.config.solver_type == "midpoint" else 1.0 - removed / stride
