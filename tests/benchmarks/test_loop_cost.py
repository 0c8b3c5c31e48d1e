"""What a step costs beside the network: our whole loop with its events against diffusers' `scheduler.step` alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch
from idle_network import SHAPE, idle_pipeline
from pair import Pair
from race import MOST, Race
from tiny_pipelines import diffusers

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Scheduler
from ldm_registry.pipeline import Decoded
from ldm_registry.vocabulary import Kind, Prediction

pytestmark = [
    pytest.mark.benchmark(group="sampling loop with a network that does nothing, one step"),
    pytest.mark.plugins,
    # diffusers hands tensors to NumPy in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ldm_schedulers = pytest.importorskip("ldm_schedulers", reason="the core is tested without plugins too")
SAMPLERS: list[Any] = [part for part in ldm_schedulers.register_components() if part.kind is Kind.SCHEDULER]
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
BELOW_DIFFUSERS = {"ddim", "euler", "dpmpp-2m", "ddpm"}
LIMIT_S = 100e-6
SEED = 3


def reading_of(sampler: Any) -> tuple[Any, SchedulerReading]:
    """The class of diffusers that takes the same steps, if any, and its usual config in our terms."""
    if sampler.name == "edm-heun":
        schedule = {"name": "edm"}
        return None, SchedulerReading({}, schedule, Prediction.F)
    if sampler.name == "dpmpp-2m":
        schedule = {"name": "scaled_linear", **{key: BETAS[key] for key in ("beta_start", "beta_end")}}
        made = diffusers().DPMSolverMultistepScheduler(**BETAS)
        return made, SchedulerReading({}, schedule, Prediction.EPSILON)
    kind = getattr(diffusers(), sampler.diffusers_class)
    has_betas = "beta_schedule" in kind.__init__.__code__.co_varnames
    made = kind(**(BETAS if has_betas else {}))
    return made, sampler.from_diffusers(dict(made.config))


def their_loop(scheduler: Any, steps: int, prediction: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Diffusers' steps from the same noise; what is set up before the first step is not timed."""
    scheduler.set_timesteps(steps)
    scheduler.is_scale_input_called = True  # the network's input is not part of a step
    fresh = [copy.deepcopy(scheduler) for _ in range(MOST + 1)]

    def loop() -> torch.Tensor:
        sampler = fresh.pop()
        generator = torch.Generator().manual_seed(SEED)
        options = {"generator": generator} if "generator" in sampler.step.__code__.co_varnames else {}
        z = torch.randn(SHAPE, generator=generator) * getattr(sampler, "init_noise_sigma", 1.0)
        for time in sampler.timesteps:
            z = sampler.step(prediction, time, z, **options).prev_sample
        return z

    return loop


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_step(race: Race, sampler: type[Scheduler], smoke: bool) -> None:
    steps = 5 if smoke else 50
    prediction = networks.noise(*SHAPE, seed=1)
    reference, reading = reading_of(sampler)
    pipe = idle_pipeline(sampler, reading, steps, prediction)

    def ours() -> torch.Tensor:
        *_, last = pipe.trace(1, seed=SEED)
        assert isinstance(last, Decoded)
        return reading.data_std * last.image

    if reference is None:
        race.alone(sampler.name, ours, limit=LIMIT_S, repeats=steps)
        return
    goal = 1.0 if sampler.name in BELOW_DIFFUSERS else None
    pair = Pair(ours, their_loop(reference, steps, prediction), repeats=steps)
    race(sampler.name, pair, goal=goal, limit=LIMIT_S)
