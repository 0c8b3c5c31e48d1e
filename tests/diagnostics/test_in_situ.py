from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from diagnostics.injured_denoisers import Wrapped, injured, of_schedule, read_as
from diagnostics.injured_samplers import Injured, Injury
from torch import Tensor

from ldm_registry.diagnostics.in_situ import measure_in_situ
from ldm_registry.diagnostics.repeatability import measure_repeatability
from ldm_registry.diagnostics.static_contract import measure_contract
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import Denoiser
from ldm_registry.vocabulary import Kind, Prediction

pytestmark = pytest.mark.plugins


def with_sampler(injury: Injury) -> Subject:
    subject = emoji_subject("emoji-kl-dit")
    hurt = replace(subject, pipe=replace(subject.pipe, scheduler=Injured(injury)))
    hurt.__dict__["latents"] = subject.latents
    return hurt


@pytest.mark.parametrize("name", ["emoji-kl-dit", "emoji-vq-dit", "emoji-kl-ideal", "emoji-pixel-dit"])
def test_a_bundled_pipeline_hands_on_what_it_should(name: str) -> None:
    found = measure_in_situ(emoji_subject(name))
    assert found.is_healthy, found
    assert found.pictures[0].image.shape[0] == 3


def test_a_start_of_the_wrong_std_is_seen_in_the_running_pipeline() -> None:
    found = measure_in_situ(with_sampler(Injury(prior=2.0)))
    assert any("initial noise" in one.fault for one in found.suspicions)


def test_clipped_estimates_are_seen_in_the_running_pipeline() -> None:
    found = measure_in_situ(with_sampler(Injury(clip=1.0)))
    assert any("clipped" in one.fault for one in found.suspicions)
    assert measure_in_situ(with_sampler(Injury())).suspicions == ()


def test_levels_that_are_told_and_not_listed_are_seen() -> None:
    found = measure_in_situ(with_sampler(Injury(told_nats=1.5)))
    assert any("told another level" in one.fault for one in found.suspicions)


def test_every_stage_repeats_itself() -> None:
    assert measure_repeatability(emoji_subject("emoji-kl-dit")).is_healthy


def test_a_sampler_with_a_memory_and_a_denoiser_with_dice_are_told_apart() -> None:
    found = measure_repeatability(with_sampler(Injury(history=0.5)))
    assert [one.stages for one in found.suspicions] == [frozenset({Kind.SCHEDULER})]
    generator = torch.Generator().manual_seed(0)

    def dice(denoiser: Denoiser) -> Denoiser:
        def change(output: Tensor) -> Tensor:
            return output + 0.1 * torch.randn(output.shape, generator=generator)

        return Wrapped(denoiser, output=change)

    found = measure_repeatability(injured(emoji_subject("emoji-kl-dit"), dice))
    assert frozenset({Kind.DENOISER}) in [one.stages for one in found.suspicions]
    assert frozenset({Kind.SCHEDULER}) not in [one.stages for one in found.suspicions]


def test_the_samples_of_a_batch_do_not_influence_one_another() -> None:
    def mixing(denoiser: Denoiser) -> Denoiser:
        return Wrapped(denoiser, output=lambda output: output - output.mean(0, keepdim=True))

    found = measure_repeatability(injured(emoji_subject("emoji-kl-dit"), mixing))
    assert any("influence one another" in one.fault for one in found.suspicions)


def test_a_prediction_that_is_not_that_of_the_contract_is_a_broken_promise() -> None:
    subject = emoji_subject("emoji-kl-dit")
    assert measure_contract(subject).is_healthy
    found = measure_contract(injured(subject, read_as(Prediction.EPSILON)))
    assert any(one.fault == "v read as epsilon" for one in found.suspicions)


def test_the_random_state_stays_as_it_was() -> None:
    subject = injured(emoji_subject("emoji-kl-dit"), of_schedule("linear"))
    state = torch.get_rng_state()
    for measure in (measure_in_situ, measure_repeatability, measure_contract):
        measure(subject)
    assert torch.equal(torch.get_rng_state(), state)
