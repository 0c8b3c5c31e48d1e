from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from diagnostics.injured_denoisers import (
    block_at_random,
    deaf,
    injured,
    noisy_weights,
    read_as,
    shifted_labels,
    time_rounded,
)

from ldm_registry.diagnostics.denoising_error import denoising_errors, measure_denoising_error
from ldm_registry.diagnostics.golden_output import golden_distance
from ldm_registry.diagnostics.guidance_identities import measure_guidance
from ldm_registry.diagnostics.load_audit import looks_random, measure_load
from ldm_registry.diagnostics.probe import vp_level
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.time_sensitivity import measure_time_sensitivity
from ldm_registry.diagnostics.wiener import Wiener, from_cosines, to_cosines
from ldm_registry.interfaces import Denoiser, DenoiserOutput
from ldm_registry.vocabulary import Kind, Prediction

plugins = pytest.mark.plugins
DENOISER = frozenset({Kind.DENOISER})


def gaussian_latents(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents whose cosines are independent, with the variances [C, H, W] of them."""
    generator = torch.Generator().manual_seed(0)
    variances = torch.rand(3, 4, 4, generator=generator, dtype=torch.float64) * 2.0 + 0.05
    waves = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64) * variances.sqrt()
    return from_cosines(waves) + 0.3, variances


@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 4.0])
def test_the_wiener_bound_is_the_error_of_the_gaussian(log_snr: float) -> None:
    latents, variances = gaussian_latents(40_000)
    wiener, level = Wiener.of(latents), vp_level(log_snr)
    alpha, sigma = float(level.alpha), float(level.sigma)
    closed_form = float((variances * sigma**2 / (alpha**2 * variances + sigma**2)).mean())
    assert wiener.expected_mse(level) == pytest.approx(closed_form, rel=0.02)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    error = (wiener.denoise(level.add_noise(latents, noise), level) - latents).square().mean()
    assert float(error) == pytest.approx(closed_form, rel=0.02)


def test_the_cosine_transform_is_orthonormal() -> None:
    values = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    waves = to_cosines(values)
    assert float(waves.square().sum()) == pytest.approx(float(values.square().sum()))
    assert torch.allclose(from_cosines(waves), values)


@plugins
@pytest.mark.parametrize(
    "name", ["emoji-kl-dit", "emoji-kl-ideal", "emoji-kl-unet", "emoji-vq-dit", "emoji-pixel-dit"]
)
def test_a_bundled_denoiser_is_as_good_as_recorded(name: str) -> None:
    subject = emoji_subject(name)
    assert measure_denoising_error(subject).is_healthy
    found = golden_distance(subject)
    assert found is not None
    assert found < 0.01


@plugins
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_moved_weights_are_blamed_on_the_denoiser(share: float) -> None:
    found = measure_denoising_error(injured(emoji_subject("emoji-kl-dit"), noisy_weights(share)))
    assert max(one.strength for one in found.suspicions) >= 0.6
    assert {one.stages for one in found.suspicions} == {DENOISER}
    assert not any(one.is_quality for one in found.suspicions)


@plugins
def test_scaled_and_shifted_latents_do_not_condemn_the_denoiser() -> None:
    subject = emoji_subject("emoji-kl-dit")
    shifted = replace(subject)
    shifted.__dict__["latents"] = 3.0 * subject.latents + 0.7
    assert denoising_errors(shifted).probe.is_corrected
    assert not denoising_errors(subject).probe.is_corrected
    assert measure_denoising_error(shifted).suspicions == ()


@plugins
def test_latents_of_another_encoder_are_blamed_on_the_encoder() -> None:
    subject = emoji_subject("emoji-kl-dit")
    other = replace(subject)
    # Channels in another order: the same statistics, another meaning.
    other.__dict__["latents"] = subject.latents[:, [2, 3, 1, 0]].flip(3)
    assert [one.stages for one in measure_denoising_error(other).suspicions] == [frozenset({Kind.ENCODER})]


@plugins
def test_an_undertrained_denoiser_without_records_is_called_poor_and_not_broken() -> None:
    def weak(denoiser: Denoiser) -> Denoiser:
        head = denoiser.get_submodule("proj_out_2")
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(-0.2)
        return denoiser

    subject = injured(emoji_subject("emoji-kl-dit"), weak)
    foreign = replace(subject, pipe=replace(subject.pipe, contracts={}))
    foreign.__dict__["latents"] = subject.latents
    found = measure_denoising_error(foreign)
    assert [one.is_quality for one in found.suspicions] == [True]


@plugins
def test_a_denoiser_of_not_a_number_is_condemned() -> None:
    def nan(denoiser: Denoiser) -> Denoiser:
        denoiser.register_forward_hook(
            lambda _module, _inputs, output: DenoiserOutput(output.prediction * float("nan"))
        )
        return denoiser

    found = measure_denoising_error(injured(emoji_subject("emoji-kl-dit"), nan))
    assert max(one.strength for one in found.suspicions) >= 0.9


@plugins
@pytest.mark.parametrize("name", ["emoji-kl-unet", "emoji-vq-dit"])
def test_a_rounded_time_and_a_deaf_network_are_heard(name: str) -> None:
    subject = emoji_subject(name, quick=False)
    assert measure_time_sensitivity(subject).is_healthy
    rounded = measure_time_sensitivity(injured(subject, time_rounded))
    assert ["rounded" in one.fault for one in rounded.suspicions] == [True]
    unheard = measure_time_sensitivity(injured(subject, deaf))
    assert ["does not hear" in one.fault for one in unheard.suspicions] == [True]


@plugins
def test_shifted_labels_lead_away_from_the_images() -> None:
    subject = emoji_subject("emoji-kl-dit", 64, quick=False)
    assert measure_guidance(subject).is_healthy
    found = measure_guidance(injured(subject, shifted_labels))
    assert ["leads away" in one.fault for one in found.suspicions] == [True]


@plugins
def test_a_block_that_was_never_loaded_is_found_and_named() -> None:
    subject = emoji_subject("emoji-kl-dit")
    assert measure_load(subject).is_healthy
    found = measure_load(injured(subject, block_at_random))
    assert {one.stages for one in found.suspicions} == {DENOISER}
    assert any("whole blocks: transformer_blocks.1" in one.evidence for one in found.suspicions)


@plugins
@pytest.mark.parametrize("name", ["emoji-kl-unet", "emoji-kl-dit", "emoji-vq-dit"])
def test_weights_that_the_file_has_are_not_called_random_where_nothing_was_recorded(name: str) -> None:
    recorded = emoji_subject(name)
    subject = replace(recorded, pipe=replace(recorded.pipe, contracts={}))
    assert measure_load(subject).is_healthy
    if "dit" in name:
        found = measure_load(injured(subject, block_at_random))
        assert {one.stages for one in found.suspicions} == {DENOISER}


def test_independent_values_look_random_and_a_direction_in_them_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    for values in (torch.randn(64, 128, generator=generator), torch.rand(64, 128, generator=generator) - 0.5):
        assert looks_random(values)
        direction = torch.randn(64, 1, generator=generator) @ torch.randn(1, 128, generator=generator)
        assert not looks_random(values + 0.3 * values.std() * direction)


@plugins
def test_the_reading_of_recorded_outputs_is_told_from_other_latents() -> None:
    found = measure_denoising_error(injured(emoji_subject("emoji-kl-unet"), read_as(Prediction.V)))
    assert any("read as another prediction" in one.fault for one in found.suspicions)


@plugins
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_seed_condemns_a_bundled_denoiser(seed: int) -> None:
    for name in ("emoji-kl-dit", "emoji-kl-unet", "emoji-vq-dit", "emoji-pixel-dit", "emoji-kl-ideal"):
        subject: Subject = emoji_subject(name, 24, seed=seed)
        assert measure_denoising_error(subject).suspicions == (), name
