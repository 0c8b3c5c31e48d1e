"""How far from the data a sampler ends that is given the exact denoiser: a number for each fault of a sampler.

The data are independent values N(0.5, 0.5**2). Their exact denoiser is linear, so the end is a linear function of
the noise at the start and of the noise of each step: runs on unit impulses give its mean and its std without sampling
error, and with them the 2-Wasserstein distance to the data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any
from unittest import mock

import diffusers
import side_by_side
import torch
from diffusers_in_double import double
from ldm_schedulers import ancestral
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoised, NoiseLevel
from ldm_registry.prediction import from_x0, to_epsilon, to_x0
from ldm_registry.vocabulary import Scaling

MEAN, STD = 0.5, 0.5


def distance(end: Tensor) -> float:
    """The 2-Wasserstein distance to the data of ends [B, 1, 1, 1]: one without noise, then one for each impulse."""
    mean, responses = end[0], end[1:] - end[0]
    return float(torch.hypot(mean - MEAN, responses.norm() - STD))


def _network(reading: SchedulerReading) -> side_by_side.Network:
    """The exact denoiser, told a time."""
    schedule = side_by_side.schedule_of(reading)

    def answer(z: Tensor, time: float) -> Tensor:
        low, high = schedule.time_range
        within = min(max(time / reading.time_scale, low), high)
        level = schedule.level(torch.tensor(within, dtype=torch.float64))
        gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
        x0 = MEAN + gain * (z - level.alpha * MEAN)
        return from_x0(reading.prediction, x0, to_epsilon(x0, z, level), level)

    return answer


def _impulses(rows: int) -> Callable[..., Tensor]:
    """In place of noise: the n-th draw is 1 in row n + 2 and 0 elsewhere."""
    drawn = iter(range(2, rows))

    def draw(*_: Any, **__: Any) -> Tensor:
        noise = torch.zeros(rows, 1, 1, 1, dtype=torch.float64)
        noise[next(drawn)] = 1.0
        return noise

    return draw


def _drawing(module: ModuleType, name: str, rows: int) -> AbstractContextManager[Any]:
    """Within it, the noise that a module draws is impulses."""
    return mock.patch.object(module, name, _impulses(rows)) if hasattr(module, name) else nullcontext()


def _start(rows: int, reading: SchedulerReading) -> Tensor:
    """Noise of the mean that noised data have at the noisiest time, and 1 more in row 1."""
    schedule = side_by_side.schedule_of(reading)
    noisiest = schedule.level(torch.tensor(schedule.time_range[1], dtype=torch.float64))
    noise = torch.full((rows, 1, 1, 1), MEAN * float(noisiest.alpha), dtype=torch.float64)
    noise[1] += 1.0
    return noise


def _share(learned: bool) -> side_by_side.Network | None:
    """A learned variance halfway between its bounds."""
    return (lambda z, time: torch.zeros_like(z)) if learned else None


def theirs(sampler: Any, options: Mapping[str, Any], steps: int) -> float:
    """The distance at the end of a scheduler of diffusers."""
    reading = sampler.from_diffusers(options)
    reference_class = getattr(diffusers, sampler.diffusers_class)
    rows = steps + 4
    with double(reference_class):
        reference = reference_class(**options)
        reference.set_timesteps(steps)
        module = sys.modules[reference_class.__module__]
        draws = _drawing(module, "randn_tensor", rows)
        learned = _share("learned" in str(options.get("variance_type")))
        start = mock.patch.object(side_by_side, "noise", return_value=_start(rows, reading))
        with draws, start:
            return distance(side_by_side.theirs(reference, _network(reading), learned).end)


def ours(sampler: Any, options: Mapping[str, Any], steps: int) -> float:
    """The distance at the end of the sampler that the same config makes."""
    reading = sampler.from_diffusers(options)
    scheduler, network = side_by_side.built(sampler, reading, steps=steps), _network(reading)
    schedule, rows = side_by_side.schedule_of(reading), steps + 4
    learned = _share("learned" in str(options.get("variance_type")))

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        time = reading.time_scale * float(schedule.time(level))
        if schedule.scaling is not Scaling.FLOW:
            z, level = z / level.std, level.normalised()
        return Denoised(
            to_x0(reading.prediction, network(z, time), z, level),
            None if learned is None else learned(z, time),
        )

    with _drawing(ancestral, "randn", rows):
        steps_taken = list(scheduler.trajectory(denoise, scheduler.levels().prior(_start(rows, reading))))
    return distance(steps_taken[-1].z)
