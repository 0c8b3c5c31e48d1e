"""One run of a sampler of diffusers and one of ours from the same config, network and noise, held side by side.

Both sides compute in float64 from the same betas (`diffusers_in_double`), so that they may be compared to more digits
than diffusers' float32 tables hold. Where diffusers is known to be wrong, `faults` says what is made of its run.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import diffusers
import ldm_schedulers as plugin
import torch
from diffusers_in_double import double
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoised, NoiseLevel, NoiseSchedule
from ldm_registry.prediction import to_x0

SAMPLERS: dict[str, Any] = {
    kind.diffusers_class: kind
    for kind in (plugin.DPMMultistep, plugin.UniPC, plugin.LMS, plugin.EDMEuler)
    if kind.diffusers_class
}
SCHEDULES: dict[str, Any] = {
    kind.name: kind for kind in plugin.register_components() if kind.kind == "schedule"
}
TOKENS = 1024
MU = 0.5 + (1.15 - 0.5) * (TOKENS - 256) / (4096 - 256)
"""What pipelines compute from the number of tokens with the class defaults."""


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        deviation: Largest difference of a step's state, over the largest value of that state, over all steps.
        time: Largest difference of the time that the network is told, in training steps.
        start: Relative difference of the std that sampling starts from.
    """

    deviation: float
    time: float
    start: float


def network(z: Tensor, time: float) -> Tensor:
    """Smooth, not linear, and different at every time."""
    return torch.tanh(0.9 * z + 0.4 * math.sin(time / 160)) + 0.1 * z


def noise() -> Tensor:
    return torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float32).double()


def schedule_of(reading: SchedulerReading) -> NoiseSchedule:
    settings = dict(reading.schedule)
    kind = SCHEDULES[settings.pop("name")]
    schedule: NoiseSchedule = kind(kind.Config(**settings))
    return schedule


def ours(name: str, values: Mapping[str, Any], steps: int) -> tuple[list[Tensor], list[float], Tensor]:
    """States after each step in diffusers' units, the times that the network was told, and the start."""
    kind = SAMPLERS[name]
    reading = kind.from_diffusers(values)
    schedule = schedule_of(reading)
    sampler = kind(kind.Config(**reading.config, steps=steps), schedule, TOKENS)
    asked = []
    flow = reading.schedule["name"] == "rectified_flow"

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        if not flow:
            z, level = z / level.std.to(z), level.normalised()
        asked.append(reading.time_scale * float(schedule.time(level)))
        return Denoised(to_x0(reading.prediction, network(z, asked[-1]), z, level))

    unit = (
        (lambda level: reading.data_std / level.alpha) if name.startswith(("LMS", "EDM")) else lambda _: 1.0
    )
    z = sampler.levels().prior(noise())
    steps_taken = list(sampler.trajectory(denoise, z, torch.Generator().manual_seed(1)))
    start = z * unit(sampler.levels()[0])
    return [step.z * unit(step.level) for step in steps_taken], asked, start


def theirs(
    name: str, values: Mapping[str, Any], steps: int, told: list[float] | None = None
) -> tuple[list[Tensor], list[float], Tensor]:
    """The same of diffusers; with `told`, its network is told these times in place of its own."""
    scheduler = getattr(diffusers, name)
    states, asked = [], []
    with double(scheduler), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = _built(name, json.dumps(values))
        mu = {"mu": MU} if values.get("use_dynamic_shifting") else {}
        reference.set_timesteps(steps, **mu)
        reference.set_begin_index(0)
        _third_order(reference)
        z = start = noise() * reference.init_noise_sigma
        if name.startswith("LMS"):
            # Its quadrature asks for single sigmas many thousand times, which plain numbers answer faster.
            reference.sigmas = reference.sigmas.tolist()
        random = {"generator": torch.Generator().manual_seed(1)} if name.startswith("DPM") else {}
        for index, time in enumerate(reference.timesteps):
            asked.append(float(time))
            output = network(reference.scale_model_input(z, time), asked[-1] if told is None else told[index])
            try:
                z = reference.step(output, time, z, **random).prev_sample
            except RuntimeError:
                if index < steps - 1:
                    raise
                z = torch.full_like(z, math.nan)
            states.append(z)
    return states, asked, start


def compare(
    name: str,
    values: Mapping[str, Any],
    steps: int,
    *,
    own_times: bool = True,
    last: bool = True,
) -> Outcome:
    """Run both.

    Args:
        name: Class of diffusers.
        values: Its config.
        steps: N.
        own_times: Each network is told the times of its own side; otherwise both are told ours.
        last: Compare the result of the last step too.
    """
    states, asked, start = ours(name, values, steps)
    reference, told, reference_start = theirs(name, values, steps, None if own_times else asked)
    assert len(states) == len(reference), (len(states), len(reference))
    assert all(bool(state.isfinite().all()) for state in states)
    count = len(states) if last else len(states) - 1
    pairs = zip(states[:count], reference[:count], strict=True)
    relative = [float((one - other).abs().max() / other.abs().max()) for one, other in pairs]
    deviation = max([math.inf if math.isnan(each) else each for each in relative], default=0.0)
    time = max(abs(one - other) for one, other in zip(asked, told, strict=True))
    return Outcome(
        deviation, time, float((start - reference_start).abs().max() / reference_start.abs().max())
    )


@lru_cache(maxsize=2)
def _built(name: str, values: str) -> Any:
    """A scheduler of diffusers, kept for its next number of steps: building one costs more than a few steps."""
    return getattr(diffusers, name)(**json.loads(values))


def _third_order(reference: Any) -> None:
    """Give diffusers' SDE step of third order the weight that the second difference has in its other forms."""
    step = getattr(reference, "multistep_dpm_solver_third_order_update", None)
    if step is None or step.__name__ == "repaired" or reference.config.algorithm_type != "sde-dpmsolver++":
        return

    def repaired(outputs: list[Tensor], *, sample: Tensor, noise: Tensor | None = None) -> Tensor:
        alphas, sigmas = reference._sigma_to_alpha_sigma_t(
            reference.sigmas[reference.step_index - 2 : reference.step_index + 2].flip(0)
        )
        rise = torch.log(alphas / sigmas)
        h, near, far = (rise[:-1] - rise[1:]).tolist()
        if h == 0.0:
            return step(outputs, sample=sample, noise=noise)
        older, newer = (outputs[-2] - outputs[-3]) / far, (outputs[-1] - outputs[-2]) / near
        bend = h * h * (newer - older) / (near + far)
        # Half of the integral of (u / h)**2, and what diffusers has in place of it: 1 less.
        half = 0.5 * (1.0 - 1.0 / h - math.expm1(-2.0 * h) / (2.0 * h**2))
        stated = (-math.expm1(-2.0 * h) - 2.0 * h) / (2.0 * h) ** 2 - 0.5
        return step(outputs, sample=sample, noise=noise) + float(alphas[0]) * (half - stated) * bend

    reference.multistep_dpm_solver_third_order_update = repaired
