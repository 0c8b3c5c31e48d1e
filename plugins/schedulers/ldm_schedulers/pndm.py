"""PNDM: linear multistep on the predicted noise (PLMS), optionally warmed up by Runge-Kutta (PRK)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import (
    Denoise,
    Generators,
    NoiseLevel,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    Trained,
)
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import coordinates, spacing
from ldm_schedulers.coordinates import Point
from ldm_schedulers.diffusers import pndm
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
    diffusers_class = "PNDMScheduler"
    Config = PNDMConfig
    config: PNDMConfig
    stochastic = False

    def __init__(self, config: PNDMConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens)
        self._points = coordinates.exploding(self._levels, self.name)
        self._middles = [] if config.skip_prk_steps else self._midpoints(schedule)

    def _midpoints(self, schedule: NoiseSchedule) -> list[Point]:
        """Halfway through each of the steps that Runge-Kutta takes: the first three that do not end without noise."""
        count = sum(point.time > 0.0 for point in self._points[1 : _WARM_UP + 1])
        if self.config.sigmas is not None or self.config.log_snrs is not None:
            log_snr = self._levels.log_snr[: count + 1]
            middle = 0.5 * (log_snr[1:] + log_snr[:-1])
        else:
            ends = self._levels[: count + 1]
            times = schedule.time(NoiseLevel(ends.alpha, ends.sigma))
            middle = schedule.level(0.5 * (times[1:] + times[:-1])).log_snr
        level = NoiseLevel.at(middle, schedule.scaling)
        return coordinates.exploding(NoiseLevels(level.alpha, level.sigma), self.name) if count else []

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return pndm.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return pndm.write_config(
            self.config, len(self._levels) - 1, Trained(prediction, schedule, time_scale)
        )

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data; see `Scheduler.trajectory`.

        One call of `denoise` a step, two in the first of several; four in each of the first three with Runge-Kutta.
        """
        clean = coordinates.clean(denoise, self.config)

        def epsilon(y: Tensor, at: Point) -> Tensor:
            return (y - clean(y, at)) / at.time

        z = at_least_float32(z)
        y, history = z / self._points[0].scale, list[Tensor]()
        for index, (start, end) in enumerate(pairwise(self._points)):
            x0 = estimate(denoise, z, start.level, self.config).x0
            history = [(y - x0) / start.time, *history[:3]]
            if index < len(self._middles):
                blend = _runge_kutta(y, history[0], (start, self._middles[index], end), epsilon)
            elif index == 0 and len(self._points) > 2:
                blend = 0.5 * (history[0] + epsilon(y + (end.time - start.time) * history[0], end))
            else:
                blend = _multistep(history)
            y = torch.add(y, blend, alpha=end.time - start.time)
            z = end.state(y)
            yield Step(index, end.level, z, x0)


def _multistep(history: list[Tensor]) -> Tensor:
    """Adams-Bashforth over up to four predictions, newest first."""
    newest, *older = _BLENDS[len(history)]
    blend = newest * history[0]
    for weight, past in zip(older, history[1:], strict=True):
        blend = torch.add(blend, past, alpha=weight)
    return blend


def _runge_kutta(
    y: Tensor, first: Tensor, points: tuple[Point, Point, Point], epsilon: Callable[[Tensor, Point], Tensor]
) -> Tensor:
    """The blend of the four predictions of one pseudo Runge-Kutta step (Eq. 13, Liu et al. 2022)."""
    start, middle, end = points
    second = epsilon(y + (middle.time - start.time) * first, middle)
    third = epsilon(y + (middle.time - start.time) * second, middle)
    fourth = epsilon(y + (end.time - start.time) * third, end)
    return (first + 2.0 * second + 2.0 * third + fourth) / 6.0
