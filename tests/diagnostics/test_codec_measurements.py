from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diagnostics.codec_injuries import (
    EVERY,
    InjuredDecoder,
    InjuredEncoder,
    TilingDecoder,
    bundled,
    half,
    injured,
    mirrored,
    rolled,
    shaken,
    subject_of,
)
from torch import Tensor

from ldm_registry.diagnostics.codebook_statistics import codebook_usage
from ldm_registry.diagnostics.codec_explanations import explanation
from ldm_registry.diagnostics.codec_precision import measure_codec_precision
from ldm_registry.diagnostics.codec_symmetry import measure_codec_symmetry
from ldm_registry.diagnostics.decoder_inversion import measure_decoder_inversion
from ldm_registry.diagnostics.evidence import Measurement, Suspicion
from ldm_registry.diagnostics.finiteness import measure_finiteness
from ldm_registry.diagnostics.inversion import linear_inverse, optimised
from ldm_registry.diagnostics.latent_statistics import golden_distance, measure_latent_statistics
from ldm_registry.diagnostics.round_trip import evenly, measure_round_trip
from ldm_registry.diagnostics.signatures import mixing_fit
from ldm_registry.diagnostics.stored_weights import weight_suspicions
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.vocabulary import Kind

pytestmark = pytest.mark.plugins

MEASUREMENTS: dict[str, Callable[[Subject], Measurement]] = {
    "RT": measure_round_trip,
    "LAT": measure_latent_statistics,
    "INV": measure_decoder_inversion,
    "FIN": measure_finiteness,
    "DTY": measure_codec_precision,
    "EQV": measure_codec_symmetry,
}
SPECS = ("emoji-kl-dit", "emoji-vq-dit", "emoji-pixel-dit")


def without_records(subject: Subject) -> Subject:
    """The same parts as a foreign checkpoint: nothing was measured when it was saved."""
    contracts = {
        kind: contract.model_copy(update={"self_test": None, "latent_measured": None})
        for kind, contract in subject.pipe.contracts.items()
    }
    return dataclasses.replace(subject, pipe=dataclasses.replace(subject.pipe, contracts=contracts))


def strongest(measurement: Measurement) -> Suspicion:
    assert measurement.suspicions, measurement.metrics
    return max(measurement.suspicions, key=lambda one: one.strength)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("code", MEASUREMENTS)
def test_nothing_is_suspected_of_a_healthy_codec(spec: str, code: str) -> None:
    found = MEASUREMENTS[code](subject_of(name=spec, quick=True))
    assert found.suspicions == ()
    assert [metric for metric in found.metrics if not metric.is_healthy] == []
    assert found.code == code


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("code", MEASUREMENTS)
def test_nothing_is_suspected_of_a_healthy_codec_that_is_measured_at_length(spec: str, code: str) -> None:
    subject = subject_of(name=spec)
    for given in (subject, without_records(subject)):
        found = MEASUREMENTS[code](given)
        assert found.suspicions == ()
        assert found.is_healthy or found.skipped


@pytest.mark.parametrize("code", MEASUREMENTS)
def test_a_measurement_leaves_nothing_behind(code: str) -> None:
    subject = subject_of(quick=True)
    parts = (subject.pipe.encoder, subject.pipe.decoder, subject.pipe.denoiser)

    def state() -> list[Any]:
        modules = [module for part in parts for module in part.modules()]
        tensors = [tensor for part in parts for tensor in part.state_dict().values()]
        return [
            [(module.training, len(module._forward_hooks)) for module in modules],
            [(tensor.dtype, tensor.requires_grad, tensor.double().sum().item()) for tensor in tensors],
            torch.get_rng_state().sum().item(),
            torch.is_grad_enabled(),
        ]

    before = state()
    MEASUREMENTS[code](subject)
    assert state() == before
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())


@pytest.mark.parametrize("code", MEASUREMENTS)
def test_a_measurement_gives_the_same_numbers_again(code: str) -> None:
    subject = subject_of(name="emoji-pixel-dit", quick=True)
    first, second = (MEASUREMENTS[code](subject) for _ in range(2))
    assert first.metrics == second.metrics


@pytest.mark.parametrize(
    ("kind", "injury", "words"),
    [
        (Kind.ENCODER, "fed pixels in [0, 1]", "half contrast and lifted black"),
        (Kind.DECODER, "output left in [0, 1]", "half contrast and lifted black"),
        (Kind.DECODER, "blue as red", "colour channels are swapped"),
        (Kind.DECODER, "image mirrored", "mirrored left to right"),
        (Kind.DECODER, "image rolled by a pixel", "shifted by 1.0 px"),
        (Kind.DECODER, "blurred", "blurred"),
        (Kind.DECODER, "mesh of 8 px", "a mesh of period"),
        (Kind.DECODER, "a tone of its own for each tile", "seams of period 16 px"),
        (Kind.DECODER, "border damaged", "along their border"),
        (Kind.DECODER, "noise on the image", "noisy"),
    ],
)
def test_the_round_trip_says_in_words_what_it_sees(kind: Kind, injury: str, words: str) -> None:
    found = measure_round_trip(injured(kind, injury, quick=True))
    assert any(words in suspicion.fault for suspicion in found.suspicions), found.suspicions
    assert all(suspicion.stages == {Kind.ENCODER, Kind.DECODER} for suspicion in found.suspicions)


@pytest.mark.parametrize(
    ("injury", "words"),
    [
        ("latents scaled by 1.4", "latents are scaled by 1."),
        ("latents shifted", "shifted"),
        ("latent channel dropped", "dead"),
        ("latents quantised", "quantised"),
        ("latent channels permuted", "recorded latents"),
        ("corrupt weights", "recorded latents"),
    ],
)
def test_latent_statistics_speak_against_the_encoder(injury: str, words: str) -> None:
    found = measure_latent_statistics(injured(Kind.ENCODER, injury, quick=True))
    assert any(words in suspicion.fault for suspicion in found.suspicions), found.suspicions
    assert all(suspicion.stages == {Kind.ENCODER} for suspicion in found.suspicions)


def test_latent_statistics_clear_the_encoder_of_what_the_decoder_did() -> None:
    found = measure_latent_statistics(injured(Kind.DECODER, "corrupt weights", quick=True))
    assert found.is_healthy


def test_golden_latents_are_found_again_and_only_where_they_were_recorded() -> None:
    distance = golden_distance(subject_of())
    assert distance is not None
    assert distance < 2e-3
    assert golden_distance(without_records(subject_of())) is None


def test_a_collapsed_codebook_is_seen() -> None:
    decoder = copy.deepcopy(bundled("emoji-vq-dit").decoder)
    subject = subject_of(name="emoji-vq-dit", decoder=decoder, quick=True)
    healthy = codebook_usage(decoder, subject.latents)
    assert healthy is not None
    weight = decoder.get_submodule("quantize.embedding").weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight[4:] = weight[:1]
    found = measure_latent_statistics(subject)
    assert any("collapsed" in suspicion.fault for suspicion in found.suspicions)
    collapsed = codebook_usage(decoder, subject.latents)
    assert collapsed is not None
    assert collapsed.distinct == 4
    assert collapsed.perplexity <= 4.0 < healthy.perplexity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "injury"),
    [(Kind.ENCODER, "latent channels permuted"), (Kind.DECODER, "latent channels permuted")],
)
def test_inversion_tells_the_encoder_from_the_decoder(kind: Kind, injury: str) -> None:
    for subject in (injured(kind, injury, quick=True), without_records(injured(kind, injury, quick=True))):
        suspicion = strongest(measure_decoder_inversion(subject))
        assert suspicion.stages == {kind}
        assert "permuted across channels" in suspicion.fault or kind is Kind.DECODER


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "injury"), EVERY)
def test_inversion_names_the_broken_half_whatever_broke(kind: Kind, injury: str) -> None:
    suspicion = strongest(measure_decoder_inversion(injured(kind, injury, quick=True)))
    assert suspicion.stages == {kind}


def test_the_linear_inverse_of_a_decoder_finds_the_latents_of_its_encoder() -> None:
    subject = subject_of()
    images = evenly(subject.images, 8)
    encoded = subject.encode(images)
    c, h, w = encoded.shape[1:]
    assert mixing_fit(encoded, linear_inverse(subject.decode, images, (c, h, w), 0, 16)).unexplained < 0.35


def test_descent_passes_a_quantiser_and_never_ends_worse_than_it_began() -> None:
    subject = subject_of(name="emoji-vq-dit")
    images = subject.images[:2]
    start = subject.encode(images) + 0.5
    found = optimised(subject.pipe.decoder, images, start, 3, 60.0)
    assert found is not None
    before, after = ((subject.decode(z) - images).square().mean() for z in (start, found[0]))
    assert after < before


def test_a_decoder_without_a_gradient_is_inverted_linearly() -> None:
    decoder = InjuredDecoder(bundled("emoji-kl-dit").decoder, before=lambda z: z.detach())
    subject = subject_of(decoder=decoder, quick=True)
    assert optimised(decoder, subject.images[:1], subject.latents[:1], 2, 60.0) is None
    assert measure_decoder_inversion(subject).suspicions == ()


@pytest.mark.parametrize("kind", [Kind.ENCODER, Kind.DECODER])
@pytest.mark.parametrize(("change", "words"), [(mirrored, "mirrored"), (partial(rolled, 8), "moved by")])
def test_symmetry_names_the_half_that_moves_things(kind: Kind, change: Any, words: str) -> None:
    pipe = bundled("emoji-kl-dit")
    if kind is Kind.ENCODER:
        change = partial(rolled, 1) if words == "moved by" else change
        subject = subject_of(encoder=InjuredEncoder(pipe.encoder, after=change), quick=True)
    else:
        subject = subject_of(decoder=InjuredDecoder(pipe.decoder, after=change), quick=True)
    suspicion = strongest(measure_codec_symmetry(subject))
    assert suspicion.stages == {kind}
    assert words in suspicion.fault


@pytest.mark.parametrize("cells", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_decoder_that_works_in_tiles_is_found_with_their_size(cells: int) -> None:
    subject = subject_of(decoder=TilingDecoder(bundled("emoji-kl-dit").decoder, cells), quick=True)
    found = measure_codec_symmetry(subject)
    faults = [suspicion.fault for suspicion in found.suspicions]
    assert f"the decoder works in separate tiles of {8 * cells} px" in faults


def poisoned(values: Tensor) -> Tensor:
    spoilt = values.clone()
    spoilt[..., 0, 0] = torch.nan
    return spoilt


def test_finiteness_names_the_first_bad_stage() -> None:
    pipe = bundled("emoji-kl-dit")
    decoder = strongest(
        measure_finiteness(subject_of(decoder=InjuredDecoder(pipe.decoder, after=poisoned), quick=True))
    )
    assert decoder.stages == {Kind.DECODER}
    encoder = measure_finiteness(subject_of(encoder=InjuredEncoder(pipe.encoder, after=poisoned), quick=True))
    assert [suspicion.stages for suspicion in encoder.suspicions] == [frozenset({Kind.ENCODER})]


def test_finiteness_names_the_step_at_which_a_denoiser_fails() -> None:
    subject = subject_of(quick=True)
    import copy

    denoiser = copy.deepcopy(subject.pipe.denoiser)
    calls = []

    def fail(_module: Any, _inputs: Any, output: Any) -> Any:
        calls.append(1)
        return (
            dataclasses.replace(output, prediction=poisoned(output.prediction)) if len(calls) > 3 else output
        )

    denoiser.register_forward_hook(fail)
    suspicion = strongest(measure_finiteness(subject_of(denoiser=denoiser, quick=True)))
    assert suspicion.stages == {Kind.DENOISER}
    assert suspicion.fault == "NaN in the prediction of call 3"


def test_finiteness_says_where_inside_a_decoder_it_begins() -> None:
    decoder = shaken(bundled("emoji-kl-dit").decoder, 0.0)
    name, last = [pair for pair in decoder.named_modules() if isinstance(pair[1], torch.nn.Conv2d)][-1]
    last.weight.data[0] = torch.inf
    suspicion = strongest(measure_finiteness(subject_of(decoder=decoder, quick=True)))
    assert f"first inside at {name}" in suspicion.evidence


def test_precision_sees_an_output_that_went_through_half_precision() -> None:
    pipe = bundled("emoji-kl-dit")
    subject = subject_of(
        encoder=InjuredEncoder(pipe.encoder, after=lambda z: z.bfloat16().to(z.dtype)), quick=True
    )
    found = measure_codec_precision(subject)
    assert {suspicion.stages for suspicion in found.suspicions} == {frozenset({Kind.ENCODER})}
    assert any("bfloat16" in suspicion.fault for suspicion in found.suspicions)


def test_precision_sees_an_overflow_that_a_finer_type_does_not_have() -> None:
    def overflowing(values: Tensor) -> Tensor:
        return values * 1e30 * 1e30 / 1e30 / 1e30

    subject = subject_of(
        decoder=InjuredDecoder(bundled("emoji-kl-dit").decoder, after=overflowing), quick=True
    )
    suspicion = strongest(measure_codec_precision(subject))
    assert suspicion.stages == {Kind.DECODER}
    assert "overflows" in suspicion.fault


def test_pixels_in_a_range_that_both_halves_agree_on_leave_the_round_trip_clean() -> None:
    pipe = bundled("emoji-kl-dit")
    subject = subject_of(
        encoder=InjuredEncoder(pipe.encoder, before=lambda x: 2 * half(x) - 1),
        decoder=InjuredDecoder(pipe.decoder, after=lambda y: 2 * half(y) - 1),
        quick=True,
    )
    assert measure_round_trip(subject).suspicions == ()


SHIFT = torch.tensor([0.4, -0.3, 0.2, 0.1]).view(1, 4, 1, 1)


@pytest.mark.parametrize(
    ("half", "stage", "fault"),
    [
        (InjuredDecoder, "before", "its latents are scaled by 0.72"),
        (InjuredDecoder, "after", "pixel range of its output is [-3.00, 1.00] instead of [-1, 1]"),
        (InjuredEncoder, "before", "pixel range of its input is [0.00, 1.00] instead of [-1, 1]"),
        (InjuredEncoder, "after", "its latents are shifted by (+0.40, -0.30, +0.20, +0.10)"),
    ],
)
def test_golden_outputs_say_by_how_much_a_half_is_wrong(half: Any, stage: str, fault: str) -> None:
    change = {
        "scaled": lambda z: 0.72 * z,
        "output": lambda x: 2.0 * x - 1.0,
        "input": lambda x: 0.5 * x + 0.5,
        "shifted": lambda z: z + SHIFT,
    }[next(word for word in ("scaled", "output", "input", "shifted") if word in fault)]
    kind = Kind.ENCODER if half is InjuredEncoder else Kind.DECODER
    part = half(getattr(bundled("emoji-kl-dit"), kind.value), **{stage: change})
    found = explanation(subject_of(quick=True, **{kind.value: part}), kind)
    assert found is not None
    assert found.fault == fault
    assert found.left < 0.05 * found.before


def test_the_codec_as_it_was_saved_needs_no_explanation() -> None:
    subject = subject_of(quick=True)
    assert explanation(subject, Kind.ENCODER) is explanation(subject, Kind.DECODER) is None


def test_weights_that_are_not_those_of_the_file_are_seen() -> None:
    subject = subject_of(quick=True)
    assert [*weight_suspicions(subject, Kind.DECODER)] == []
    decoder = copy.deepcopy(subject.pipe.decoder)
    with torch.no_grad():
        next(one for one in decoder.parameters() if one.ndim > 1).mul_(1.5)
    (altered,) = weight_suspicions(subject_of(quick=True, decoder=decoder), Kind.DECODER)
    assert altered.fault == "weights are altered or corrupt"
    with torch.no_grad():
        for one in decoder.parameters():
            one.normal_(generator=torch.Generator().manual_seed(0))
    (random,) = weight_suspicions(subject_of(quick=True, decoder=decoder), Kind.DECODER)
    assert random.fault == "weights were never loaded: they are random"
