from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import replace as replaced

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from diagnostics.injured_samplers import INJURIES, Injured, Injury, vp_levels
from torch import Tensor

from ldm_registry.assembly import assemble
from ldm_registry.build import build_schedule
from ldm_registry.diagnostics.evidence import Suspicion
from ldm_registry.diagnostics.known_data import Mixture, normal_quantiles
from ldm_registry.diagnostics.level_sequence import level_suspicions, scaling_error
from ldm_registry.diagnostics.oracle_sampling import (
    measure_oracle_sampling,
    misses_data,
    suspicions,
    worst_data,
)
from ldm_registry.diagnostics.sampler_convergence import with_steps
from ldm_registry.diagnostics.sampler_outcome import examine
from ldm_registry.diagnostics.sampler_run import reference_end
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import Denoise, Denoised, Generators, NoiseLevel, Step
from ldm_registry.noise import NoiseLevels
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec, swap
from ldm_registry.vocabulary import Kind, Scaling

SCHEDULES = {"scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}, "rectified_flow": {}, "edm": {}}


def found_against(scheduler: Injured) -> list[Suspicion]:
    try:
        found = examine(scheduler, extent=3.0)
    except RuntimeError as error:
        return [Suspicion(frozenset({Kind.SCHEDULER}), "fails", 0.95, str(error))]
    name = worst_data(found)
    missed = [misses_data(found, name)] if found.excess(name) > 1.0 else []
    return [*suspicions(found), *level_suspicions(found.levels, None), *missed]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_right_sampler_is_not_suspected(eta: float) -> None:
    assert found_against(Injured(Injury(eta=eta))) == []


@pytest.mark.parametrize("name", list(INJURIES))
def test_every_injury_speaks_against_the_scheduler(name: str) -> None:
    found = found_against(Injured(replaced(INJURIES[name], kept=[])))
    assert max(one.strength for one in found) >= 0.6
    assert {kind for one in found for kind in one.stages} == {Kind.SCHEDULER}


def test_faults_are_named_for_what_is_wrong() -> None:
    def named(name: str) -> str:
        return " ".join(one.fault for one in found_against(Injured(replaced(INJURIES[name], kept=[]))))

    assert "clipped" in named("clipped x0")
    assert "residual noise" in named("residual noise")
    assert "initial noise" in named("prior three times too large")
    assert "history" in named("history kept")
    assert "before the noise is gone" in named("stops early")
    assert "amount of noise" in named("noise doubled in ancestral steps")
    assert "told another level" in named("told levels half a nat too clean")


@pytest.mark.plugins
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_every_installed_sampler_passes_with_its_defaults(schedule: str) -> None:
    registry = Registry.discover()
    noise = build_schedule(schedule, SCHEDULES[schedule], registry)
    passed = set()
    for name in registry.names(Kind.SCHEDULER):
        sampler = registry.get(Kind.SCHEDULER, name)
        for steps in (8, 30):
            try:
                built = sampler(sampler.Config(steps=steps), noise, 16)  # type: ignore[call-arg]  # any sampler
            except LdmError:
                continue  # some start at no level without signal
            found = examine(built, extent=3.0)  # type: ignore[arg-type]  # a Scheduler
            assert [*suspicions(found), *level_suspicions(found.levels, noise)] == [], (name, steps)
            assert found.excess(worst_data(found)) <= 1.0, (name, steps)
            passed.add(name)
    assert len(passed) >= 9


@pytest.mark.plugins
def test_a_larger_variance_that_is_right_for_unit_variance_is_not_suspected() -> None:
    registry = Registry.discover()
    noise = build_schedule("scaled_linear", SCHEDULES["scaled_linear"], registry)
    sampler = registry.get(Kind.SCHEDULER, "ddpm")
    built = sampler(sampler.Config(steps=40, variance="fixed_large"), noise, None)  # type: ignore[call-arg]  # any sampler
    assert list(suspicions(examine(built, extent=3.0))) == []  # type: ignore[arg-type]  # a Scheduler


@pytest.mark.plugins
@pytest.mark.parametrize("name", ["heun", "pndm", "edm-heun"])
def test_wide_steps_that_would_converge_are_a_matter_of_quality(name: str) -> None:
    spec = swap(load_spec("emoji-kl-dit"), scheduler=name, scheduler_config={"steps": 10})
    subject = replaced(emoji_subject("emoji-kl-dit"), pipe=assemble(spec))
    found = measure_oracle_sampling(subject)
    assert [(one.is_quality, one.stages) for one in found.suspicions] == [(True, {Kind.SCHEDULER})]
    order = {metric.name: metric.value for metric in found.metrics}["convergence_order"]
    # The error of the last, widest step in sigma falls faster than that of a smooth integrand.
    assert 1.8 < order < 4.0


@pytest.mark.plugins
def test_a_sampler_that_misses_the_data_with_any_number_of_steps_is_at_fault() -> None:
    subject = emoji_subject("emoji-kl-dit")
    sampler = type(subject.pipe.scheduler)

    class Shrinking(sampler):  # type: ignore[misc, valid-type]  # a class found by its name
        """Hands on less than the denoiser says, more so the farther it is from 0.5."""

        def trajectory(
            self, denoise: Denoise, z: Tensor, generator: Generators | None = None
        ) -> Iterator[Step]:
            def smaller(state: Tensor, level: NoiseLevel) -> Denoised:
                found = denoise(state, level)
                return Denoised(found.x0 - 0.4 * torch.tanh(found.x0 - 0.5), found.variance)

            yield from super().trajectory(smaller, z, generator)

    altered = copy(subject.pipe.scheduler)
    altered.__class__ = Shrinking
    found = measure_oracle_sampling(replaced(subject, pipe=replaced(subject.pipe, scheduler=altered)))
    assert found.suspicions
    assert not any(one.is_quality for one in found.suspicions)
    finer = with_steps(replaced(subject.pipe, scheduler=altered), 100)
    assert type(finer) is Shrinking
    assert len(finer.levels()) == 101
    assert len(altered.levels()) == 51


def test_clipping_at_the_range_of_pixels_is_right_for_pixels_and_wrong_for_latents() -> None:
    clipped = Injured(Injury(clip=1.0))
    assert list(suspicions(examine(clipped, extent=1.0))) == []
    assert any("clipped" in one.fault for one in suspicions(examine(clipped, extent=3.0)))


def test_the_reference_sampler_converges_to_the_data_at_first_order() -> None:
    data, errors = Mixture((0.5,), 0.4), []
    for steps in (100, 200, 400):
        levels = vp_levels(steps, cleanest=16.0)
        # The state at the first level, as a set of quantiles, is what noised data are.
        start = levels[0].alpha * 0.5 + normal_quantiles(512).view(-1, 1, 1, 1) * math.hypot(
            float(levels[0].alpha) * 0.4, float(levels[0].sigma)
        )
        errors.append(data.distance(reference_end(levels, data.clean, start, eta=0.0)))
    assert errors[0] / errors[2] == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("log_snr", [-3.0, 0.0, 3.0])
def test_the_clean_estimate_of_a_mixture_is_its_posterior_mean(log_snr: float) -> None:
    data = Mixture((-1.0, 2.0), 0.5)
    level = NoiseLevel.at(torch.tensor(log_snr, dtype=torch.float64), Scaling.VP)
    alpha, sigma = float(level.alpha), float(level.sigma)
    x = torch.linspace(-8, 10, 20001, dtype=torch.float64)
    prior = sum(torch.exp(-0.5 * ((x - mean) / 0.5) ** 2) for mean in data.means)
    for z in (-2.0, 0.3, 1.7):
        weight = prior * torch.exp(-0.5 * ((z - alpha * x) / sigma) ** 2)
        expected = float((weight * x).sum() / weight.sum())
        assert float(data.clean(torch.tensor([z], dtype=torch.float64), level)) == pytest.approx(
            expected, abs=1e-6
        )


def test_quantiles_have_the_mean_and_std_that_they_stand_for() -> None:
    data = Mixture((-1.0, 3.0), 0.5)
    values = data.samples(2000)
    assert float(values.mean()) == pytest.approx(data.mean)
    assert float(values.std(correction=0)) == pytest.approx(data.total_std)
    assert data.distance(values) == 0.0
    assert data.distance(values + 0.1) == pytest.approx(0.1 / data.total_std)


def test_each_scaling_keeps_its_identity_and_a_mixture_of_them_does_not() -> None:
    log_snr = torch.linspace(-5, 5, 11, dtype=torch.float64)
    for scaling in Scaling:
        level = NoiseLevel.at(log_snr, scaling)
        assert scaling_error(NoiseLevels(level.alpha, level.sigma)) < 1e-12
    vp, flow = NoiseLevel.at(log_snr, Scaling.VP), NoiseLevel.at(log_snr, Scaling.FLOW)
    assert scaling_error(NoiseLevels(vp.alpha, flow.sigma)) > 0.05


@pytest.mark.plugins
def test_a_pipeline_with_an_injured_sampler_is_blamed_on_the_scheduler() -> None:
    emoji = emoji_subject("emoji-kl-dit")
    pipe = emoji.pipe
    assert measure_oracle_sampling(emoji).is_healthy
    hurt: Pipeline = replaced(pipe, scheduler=Injured(Injury(residual=0.3)))
    found = measure_oracle_sampling(replaced(emoji, pipe=hurt))
    assert not found.is_healthy
    assert {one.stages for one in found.suspicions} == {frozenset({Kind.SCHEDULER})}
