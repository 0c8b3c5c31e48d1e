"""PNDM: linear multistep on the predicted noise (PLMS), optionally warmed up by Runge-Kutta (PRK)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

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
)
from ldm_schedulers import coordinates, spacing
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate

_BLENDS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Adams-Bashforth weights of the last predictions, newest first (Eq. 12 and Appendix, Liu et al. 2022)."""

_WARM_UP = 3
"""Steps that Runge-Kutta takes before four predictions are known."""


class PNDMConfig(SamplerConfig):
    """PNDM over whole training steps; 50 by default."""

    round_times: bool = Field(
        default=True, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    skip_prk_steps: bool = Field(
        default=True,
        description="begin with rising order (PLMS, as Stable Diffusion does) instead of three Runge-Kutta steps",
    )


@final
class PNDM(Scheduler):
    """Pseudo numerical methods (Liu et al. 2022): DDIM's step, fed with a blend of noise predictions.

    In `y = z / alpha` over `t = sigma / alpha` DDIM's step is `y + (t' - t) * epsilon`. The blend's weights assume
    steps of equal length in schedule time. The paper proves second order.

    The midpoint of a Runge-Kutta step lies halfway in schedule time, or halfway in log-SNR where the config lists
    the levels as `sigmas` or `log_snrs`.

    Raises:
        ContractError: The first level holds no signal.
    """

    name = "pndm"
    Config = PNDMConfig
    config: PNDMConfig
    stochastic = False

    def __init__(self, config: PNDMConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)
        self._at = coordinates.exploding(self._levels, self.name)
        self._middle = self._midpoints(schedule)

    def _midpoints(self, schedule: NoiseSchedule) -> NoiseLevel:
        """Levels halfway through each of the steps that Runge-Kutta takes."""
        count = (
            0 if self.config.skip_prk_steps else sum(time > 0.0 for time in self._at.time[1 : _WARM_UP + 1])
        )
        if self.config.sigmas is not None or self.config.log_snrs is not None:
            log_snr = self._levels.log_snr[: count + 1]
            return NoiseLevel.at(0.5 * (log_snr[1:] + log_snr[:-1]), schedule.scaling)
        ends = self._levels[: count + 1]
        times = schedule.time(NoiseLevel(ends.alpha, ends.sigma))
        middle = schedule.level(0.5 * (times[1:] + times[:-1]))
        return NoiseLevel.at(middle.log_snr, schedule.scaling)

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data; see `Scheduler.trajectory`.

        One call of `denoise` a step, two in the first; four in each of the first three with Runge-Kutta.
        """
        at, history = self._at, list[Tensor]()
        middles = list(
            zip(self._middle.alpha.tolist(), (self._middle.sigma / self._middle.alpha).tolist(), strict=True)
        )
        y = at_least_float32(z) / at.scale[0]

        def epsilon(y: Tensor, level: NoiseLevel, scale: float, time: float) -> Tensor:
            return (y - estimate(denoise, scale * y, level, self.config).x0) / time

        for index in range(len(self._levels) - 1):
            time, next_time, scale = at.time[index], at.time[index + 1], at.scale[index + 1]
            first = epsilon(y, self._levels[index], at.scale[index], time)
            history = [first, *history[:3]]

            def at_end(y: Tensor, index: int = index + 1) -> Tensor:
                return epsilon(y, self._levels[index], at.scale[index], at.time[index])

            if index < len(middles):
                level = NoiseLevel(self._middle.alpha[index], self._middle.sigma[index])
                middle_scale, middle_time = middles[index]

                def at_middle(
                    y: Tensor,
                    level: NoiseLevel = level,
                    scale: float = middle_scale,
                    time: float = middle_time,
                ) -> Tensor:
                    return epsilon(y, level, scale, time)

                slope = _runge_kutta(y, first, (time, middle_time, next_time), at_middle, at_end)
            elif index == 0 and next_time > 0.0:
                slope = 0.5 * (first + at_end(y + (next_time - time) * first))
            else:
                weights = _BLENDS[len(history)]
                slope = sum(
                    (weight * past for weight, past in zip(weights, history, strict=True)),
                    start=torch.zeros_like(y),
                )
            x0 = y - time * first
            y = y + (next_time - time) * slope
            yield Step(index, self._levels[index + 1], scale * y, x0)


def _runge_kutta(
    y: Tensor,
    first: Tensor,
    times: tuple[float, float, float],
    at_middle: Callable[[Tensor], Tensor],
    at_end: Callable[[Tensor], Tensor],
) -> Tensor:
    """The blend of four predictions of one pseudo Runge-Kutta step (Eq. 13, Liu et al. 2022)."""
    start, middle, end = times
    second = at_middle(y + (middle - start) * first)
    third = at_middle(y + (middle - start) * second)
    fourth = at_end(y + (end - start) * third)
    return (first + 2.0 * second + 2.0 * third + fourth) / 6.0
