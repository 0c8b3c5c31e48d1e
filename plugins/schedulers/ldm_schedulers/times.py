"""Where a sampler's levels lie when they are spaced evenly in time, before any shift."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseLevel, NoiseSchedule
from ldm_registry.vocabulary import Scaling
from ldm_schedulers.spacing_config import SpacingConfig
from ldm_schedulers.tables import DOUBLE, log_ratio_of

_FLOOR = 1e-3
"""Where a continuous schedule starts without any noise, evenly spaced times stop this fraction of its range
above the start: a step that begins at a level without noise has nothing to remove."""


def at(schedule: NoiseSchedule, times: Tensor) -> Tensor:
    """`log(sigma / alpha)` at times of a schedule.

    Raises:
        SpecError: The schedule does not have such times.
    """
    low, high = schedule.time_range
    if bool(((times < low) | (times > high)).any()):
        listed = ", ".join(f"{time:g}" for time in times[(times < low) | (times > high)][:5].tolist())
        raise SpecError(
            "the scheduler asks for times that its noise schedule does not have",
            [f"got {listed}; the range is [{low:g}, {high:g}]"],
            "lower steps_offset, or list other timesteps",
        )
    return log_ratio_of(schedule.level(times))


def ends(config: SpacingConfig, schedule: NoiseSchedule) -> tuple[float, float]:
    """`log(sigma / alpha)` of the cleanest and of the noisiest level to space between."""
    low, high = log_ratio_of(schedule.level(torch.tensor(schedule.time_range, **DOUBLE))).tolist()
    low = low if config.sigma_min is None else math.log(config.sigma_min)
    high = high if config.sigma_max is None else math.log(config.sigma_max)
    return low, high


def even(config: SpacingConfig, schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced times, noisiest first, float64.

    Raises:
        SpecError: More whole training steps are asked for than there are.
    """
    if config.spacing == "linspace" or schedule.steps is None:
        return _between(config, schedule, steps)
    index, total = torch.arange(steps, **DOUBLE), schedule.steps
    if steps > total:
        raise SpecError(
            f"spacing: {config.spacing} takes whole training steps",
            [f"got {steps} steps, expected at most the schedule's {total}"],
            "take fewer steps, or spacing: linspace with round_times: false",
        )
    if config.spacing == "leading":
        return (steps - 1 - index) * (total // steps) + config.steps_offset
    # Summed in the order of numpy.arange, so that halves are rounded to the same side as in diffusers.
    stride = (total - total / steps) - total
    return (total + index * stride).round() - 1


def _between(config: SpacingConfig, schedule: NoiseSchedule, steps: int) -> Tensor:
    """Times spread over an interval, whatever the schedule."""
    ratios = torch.tensor(ends(config, schedule), **DOUBLE)
    low, high = schedule.time(NoiseLevel.at(-2.0 * ratios, Scaling.VP)).unbind()
    index = torch.arange(steps, **DOUBLE)
    if config.spacing == "trailing":
        return high - index * ((high - low) / steps)
    if math.isinf(ratios[0]):
        low = low + _FLOOR * (high - low)
    if config.spacing == "leading":
        return low + (steps - 1 - index) * ((high - low) / steps)
    if steps == 1:
        return high.reshape(1)
    # Summed in the order of numpy.linspace, from the clean end.
    times = torch.cat([index[:-1] * ((high - low) / (steps - 1)) + low, high.reshape(1)]).flip(0)
    return times.round() if config.round_times and schedule.steps is not None else times
