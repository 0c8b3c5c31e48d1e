"""One network under a sampler of ours and under the class of diffusers whose config it was built from.

The network is fed the same on both sides where the samplers agree: inputs and times are recorded at every call, and
compared together with the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import ldm_schedulers
import torch
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoised, NoiseLevel, NoiseSchedule, Scheduler, randn
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind, Scaling

SHAPE: Final = (1, 2, 2, 2)
TOKENS: Final = 1024
COMPONENTS: Final = {(part.kind, part.name): part for part in ldm_schedulers.register_components()}

Network = Callable[[Tensor, float], Tensor]


@dataclass
class Record:
    """What a network was fed, call by call, and the state that sampling ended in, in units of the data."""

    inputs: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    end: Tensor = field(default_factory=lambda: torch.zeros(SHAPE))

    def worst(self, other: Record) -> tuple[float, float]:
        """Largest relative distance of inputs and end, and largest distance of times."""
        assert len(self.inputs) == len(other.inputs)
        ours = torch.stack([*self.inputs, self.end]).flatten(1)
        theirs = torch.stack([*other.inputs, other.end]).flatten(1)
        size = theirs.abs().amax(1)
        distance = (ours - theirs).abs().amax(1) / size
        apart = torch.tensor(self.times) - torch.tensor(other.times)
        return float(distance.max()), float(apart.abs().max())


def network(z: Tensor, time: float) -> Tensor:
    """Smooth, not linear, and different at every time."""
    return torch.tanh(0.9 * z + 0.4 * math.sin(time / 160.0)) + 0.1 * z


def variance(z: Tensor, time: float) -> Tensor:
    """In [-1, 1], smooth, and different at every time."""
    return torch.tanh(z + time / 500.0)


@cache
def noise() -> Tensor:
    """Standard normal, float64."""
    return randn(SHAPE, torch.Generator().manual_seed(0), dtype=torch.float64)


@cache
def _schedule(name: str, settings: tuple[tuple[str, Any], ...]) -> NoiseSchedule:
    kind: Any = COMPONENTS[Kind.SCHEDULE, name]
    schedule: NoiseSchedule = kind(kind.Config(**dict(settings)))
    return schedule


def schedule_of(reading: SchedulerReading) -> NoiseSchedule:
    """The noise schedule that a reading names; built once."""
    settings = {key: value for key, value in reading.schedule.items() if key != "name"}
    return _schedule(str(reading.schedule["name"]), tuple(sorted(settings.items())))


def built(sampler: Any, reading: SchedulerReading, **more: Any) -> Scheduler:
    """A sampler from what it read."""
    scheduler: Scheduler = sampler(sampler.Config(**reading.config, **more), schedule_of(reading), TOKENS)
    return scheduler


def ours(
    scheduler: Scheduler,
    reading: SchedulerReading,
    net: Network = network,
    learned: Network | None = None,
) -> Record:
    """A run of ours in float64."""
    schedule, record = schedule_of(reading), Record()
    levels = scheduler.levels()
    visited = levels[:-1]
    asked = dict(
        zip(visited.sigma.tolist(), schedule.time(NoiseLevel(visited.alpha, visited.sigma)), strict=True)
    )
    straight = schedule.scaling is Scaling.FLOW

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        known = asked.get(float(level.sigma))
        time = reading.time_scale * float(schedule.time(level) if known is None else known)
        if not straight:
            z, level = z / level.std, level.normalised()
        record.inputs.append(z)
        record.times.append(time)
        x0 = to_x0(reading.prediction, net(z, time), z, level)
        return Denoised(x0, None if learned is None else learned(z, time))

    steps = list(scheduler.trajectory(denoise, levels.prior(noise()), torch.Generator().manual_seed(1)))
    record.end = steps[-1].z / levels[-1].std
    return record


def theirs(
    reference: Any,
    net: Network = network,
    learned: Network | None = None,
    *,
    before: Callable[[int], None] | None = None,
    **arguments: Any,
) -> Record:
    """A run of a scheduler of diffusers whose timesteps are set; in float64 within `double`.

    Args:
        reference: The scheduler.
        net: The network.
        learned: What the network says of the variance, if anything.
        before: Called with the index of a call before each step.
        arguments: Of `step`.
    """
    record = Record()
    if "generator" in reference.step.__code__.co_varnames:
        arguments["generator"] = torch.Generator().manual_seed(1)
    if hasattr(reference, "set_begin_index"):
        reference.set_begin_index(0)
    scale = getattr(reference, "scale_model_input", lambda sample, timestep: sample)
    sample = noise() * float(getattr(reference, "init_noise_sigma", 1.0))
    for index, timestep in enumerate(reference.timesteps):
        time, fed = float(timestep), scale(sample, timestep)
        record.inputs.append(fed)
        record.times.append(time)
        output = net(fed, time)
        if learned is not None:
            output = torch.cat([output, learned(fed, time)], dim=1)
        if before is not None:
            before(index)
        sample = reference.step(output, timestep, sample, **arguments).prev_sample
    exploding = hasattr(reference, "is_scale_input_called") or "Heun" in type(reference).__name__
    flow = "Flow" in type(reference).__name__
    record.end = scale_end(sample, reference) if exploding and not flow else sample
    return record


def scale_end(sample: Tensor, reference: Any) -> Tensor:
    """A state in units of `z / alpha` as `z / sqrt(alpha**2 + sigma**2)`, at the last sigma."""
    return sample / math.hypot(1.0, float(reference.sigmas[-1]))


def read(sampler: Any, options: Mapping[str, Any]) -> SchedulerReading:
    """What a sampler of ours makes of a config."""
    reading: SchedulerReading = sampler.from_diffusers(options)
    return reading
