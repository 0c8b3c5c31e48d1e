from __future__ import annotations

import math

import pytest
import torch
from toy_plugin import (
    CodecConfig,
    DenoiserConfig,
    ScheduleConfig,
    ToyDecoder,
    ToyDenoiser,
    ToyEncoder,
    ToySchedule,
)

from ldm_registry.golden import DIGITS, LOG_SNRS, answer, difference, golden_codec, golden_denoiser
from ldm_registry.interfaces import Trained
from ldm_registry.vocabulary import Kind, Prediction


@pytest.fixture
def denoiser() -> ToyDenoiser:
    torch.manual_seed(0)
    trained = Trained(Prediction.EPSILON, ToySchedule(ScheduleConfig()), 1.0)
    return ToyDenoiser(DenoiserConfig(), trained).eval()


@pytest.fixture
def codec() -> tuple[ToyEncoder, ToyDecoder]:
    torch.manual_seed(0)
    config = CodecConfig()
    return ToyEncoder(config).eval(), ToyDecoder(config).eval()


def test_a_denoiser_that_is_the_same_answers_the_same_at_every_level(denoiser: ToyDenoiser) -> None:
    golden = golden_denoiser(denoiser, (4, 8, 8))
    assert [one.log_snr for one in golden] == list(LOG_SNRS)
    assert all(difference(answer(denoiser, one), one.values) < 10.0**-DIGITS for one in golden)


def test_a_denoiser_that_puts_out_next_to_nothing_is_known_again_too() -> None:
    torch.manual_seed(0)
    denoiser = ToyDenoiser(DenoiserConfig(), Trained(Prediction.V, ToySchedule(ScheduleConfig()), 1.0)).eval()
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.mul_(1e-3)
    golden = golden_denoiser(denoiser, (4, 8, 8))
    assert all(max(map(abs, one.values)) < 0.01 for one in golden)
    assert all(difference(answer(denoiser, one), one.values) < 10.0**-DIGITS for one in golden)
    with torch.no_grad():
        denoiser.mix.weight.mul_(1.01)
    assert all(difference(answer(denoiser, one), one.values) > 10.0**-DIGITS for one in golden)


def test_a_change_of_one_weight_shows_in_proportion(denoiser: ToyDenoiser) -> None:
    golden = golden_denoiser(denoiser, (4, 8, 8))
    found = []
    for change in (0.01, 0.1):
        with torch.no_grad():
            denoiser.mix.weight.mul_(1 + change)
        found.append([difference(answer(denoiser, one), one.values) for one in golden])
        with torch.no_grad():
            denoiser.mix.weight.div_(1 + change)
    assert all(1e-4 < small < large for small, large in zip(*found, strict=True))


def test_an_output_that_is_read_as_another_prediction_is_another_output(denoiser: ToyDenoiser) -> None:
    golden = golden_denoiser(denoiser, (4, 8, 8))
    denoiser.prediction = Prediction.V
    # Where there is hardly any signal the two predictions are nearly the same: v tends to epsilon.
    assert all(difference(answer(denoiser, one), one.values) > 0.01 for one in golden)
    assert max(difference(answer(denoiser, one), one.values) for one in golden) > 0.5


def test_every_label_has_its_turn(denoiser: ToyDenoiser) -> None:
    classes = denoiser.config.classes
    golden = golden_denoiser(denoiser, (4, 8, 8))
    assert [one.label for one in golden] == [seed % classes for seed in range(len(LOG_SNRS))]


def test_levels_outside_the_trained_range_are_left_out() -> None:
    narrow = ToySchedule(ScheduleConfig(cleanest_nats=1.0, noisiest_nats=-3.0))
    denoiser = ToyDenoiser(DenoiserConfig(), Trained(Prediction.V, narrow, 1.0))
    assert [one.log_snr for one in golden_denoiser(denoiser, (4, 8, 8))] == [-2.0, 0.0]


def test_each_half_of_a_codec_answers_for_itself(codec: tuple[ToyEncoder, ToyDecoder]) -> None:
    encoder, decoder = codec
    golden = golden_codec(encoder, decoder, (16, 16))
    assert {one.kind for one in golden} == {Kind.ENCODER, Kind.DECODER}
    with torch.no_grad():
        decoder.decoder.bias.add_(0.5)
    for one in golden:
        distance = difference(answer(encoder if one.kind is Kind.ENCODER else decoder, one), one.values)
        assert (distance > 0.1) is (one.kind is Kind.DECODER)


def test_pixels_that_a_codec_is_asked_about_lie_within_its_range(
    codec: tuple[ToyEncoder, ToyDecoder],
) -> None:
    seen: list[torch.Tensor] = []
    encoder, decoder = codec
    encoder.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    golden_codec(encoder, decoder, (16, 16))
    assert seen
    assert all(float(pixels.abs().max()) <= 1.0 for pixels in seen)
    assert all(float(pixels.std()) > 0.2 for pixels in seen)


def test_an_output_that_is_no_number_or_of_another_size_is_infinitely_far() -> None:
    assert difference(torch.tensor([1.0, math.nan]), (1.0, 1.0)) == math.inf
    assert difference(torch.ones(3), (1.0, 1.0)) == math.inf
    assert difference(torch.tensor([1.0, 1.0]).double(), (1.0, 1.0)) == 0.0


def test_the_global_generator_is_left_alone(denoiser: ToyDenoiser) -> None:
    before = torch.get_rng_state()
    golden_denoiser(denoiser, (4, 8, 8))
    assert torch.equal(before, torch.get_rng_state())
