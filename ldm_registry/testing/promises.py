"""What the contract of a checkpoint promises, against what is measured. Asked where a checkpoint is given."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ldm_registry.assembly import load_component
from ldm_registry.contracts import Contract, LatentStatistics
from ldm_registry.data import read_images, to_unit
from ldm_registry.golden import answer, difference
from ldm_registry.interfaces import Component, Decoder, Denoiser, Encoder
from ldm_registry.testing.check import NotApplicableError, asked_of, require
from ldm_registry.testing.subject import Subject, run
from ldm_registry.training.self_test import encoded, latent_statistics, mean_psnr_db, round_trip
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import read_contract

LEARNED = (Kind.ENCODER, Kind.DENOISER, Kind.DECODER)
CODEC = (Kind.ENCODER, Kind.DECODER)
MOST_IMAGES = 256
GOLDEN_TOLERANCE = 1e-3
"""Relative; recorded values have four decimals."""
STATISTICS_TOLERANCE = 0.02
"""Of the mean, and of the std relative to 1, on the images that were measured."""
UNIT_TOLERANCE = 0.35
"""Of the mean, and of the std relative to 1, on other images of the same sort."""
PSNR_TOLERANCE_DB = 0.1
RANGE_MARGIN = 0.1
"""Of the range: reconstructions overshoot at edges."""
OUTSIDE_SHARE = 0.01


@asked_of(*LEARNED)
def its_checkpoint_loads_and_runs(subject: Subject) -> None:
    """Every tensor has its place, digests agree with the contract, and what comes out is finite."""
    component = _loaded(subject)
    inputs = subject.inputs(component).to(dtype=torch.float32)
    for name, output in run(component, inputs).items():
        require(bool(output.isfinite().all()), f"{name} has values that are not finite")


@asked_of(*LEARNED)
def its_contract_says_what_it_is(subject: Subject) -> None:
    """Channels, stride, prediction and classes of the contract are those that the component declares."""
    contract, component = _contract(subject), _loaded(subject)
    declared = _declared(component)
    wrong = [
        f"{key} is {promised!r}, the component has {declared[key]!r}"
        for key, promised in contract
        if key in declared and promised is not None and promised != declared[key]
    ]
    require(not wrong, "; ".join(wrong))


@asked_of(*LEARNED)
def its_golden_outputs_come_back(subject: Subject) -> None:
    """For the inputs that the contract records, it puts out what it put out when it was saved."""
    test = _contract(subject).self_test
    recorded = [one for one in test.golden_outputs if one.kind is subject.kind] if test else []
    if not recorded:
        raise NotApplicableError("its contract records no golden outputs")
    component = cast(Encoder | Denoiser | Decoder, _loaded(subject))
    for index, one in enumerate(recorded):
        apart = difference(answer(component, one), one.values)
        require(
            apart <= GOLDEN_TOLERANCE,
            f"output {index} differs from the recorded one by {apart:.3g} of its size; allowed {GOLDEN_TOLERANCE:g}",
        )


@asked_of(Kind.ENCODER)
def its_latents_are_as_measured(subject: Subject) -> None:
    """Latents of the images have mean 0 and std 1 in each channel, and those that the contract records."""
    recorded = _contract(subject).latent_measured
    encoder = cast(Encoder, _loaded(subject))
    found = latent_statistics(encoded(encoder, _images(subject), torch.device("cpu")))
    ideal = LatentStatistics(mean=(0.0,) * len(found.mean), std=(1.0,) * len(found.std), images=1)
    _require_statistics(found, ideal, UNIT_TOLERANCE)
    if recorded is not None:
        same = recorded.images == found.images
        _require_statistics(found, recorded, STATISTICS_TOLERANCE if same else UNIT_TOLERANCE)


@asked_of(*CODEC)
def its_round_trip_is_as_recorded(subject: Subject) -> None:
    """Encoding and decoding the images loses what the contract records, and pixels stay within their range."""
    contract = _contract(subject)
    if not {*CODEC} <= contract.components.keys():
        raise NotApplicableError("its checkpoint holds no other half")
    encoder, decoder = (cast(Encoder | Decoder, _loaded(subject, kind)) for kind in CODEC)
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    pixels = to_unit(_images(subject))
    low, high = contract.value_range or (-1.0, 1.0)
    margin = RANGE_MARGIN * (high - low)
    with torch.inference_mode():
        raw = decoder.decode(encoder.encode(pixels[:16]))
    outside = float(((raw < low - margin) | (raw > high + margin)).float().mean())
    require(
        outside <= OUTSIDE_SHARE, f"{outside:.1%} of the pixels lie outside of {low:g} to {high:g} by a tenth"
    )
    recorded = contract.self_test.round_trip_psnr_db if contract.self_test else None
    measured_on = contract.latent_measured.images if contract.latent_measured else None
    if recorded is not None and measured_on == len(pixels):
        found = mean_psnr_db(round_trip(encoder, decoder, pixels, torch.device("cpu")), pixels)
        require(
            abs(found - recorded) <= PSNR_TOLERANCE_DB,
            f"the round trip has a PSNR of {found:.2f} dB; recorded are {recorded:.2f} dB",
        )


def _loaded(subject: Subject, kind: Kind | None = None) -> Component:
    if subject.checkpoint is None:
        raise NotApplicableError("no checkpoint was given")
    contract = read_contract(subject.checkpoint)
    if contract is not None and subject.kind not in contract.components:
        raise NotApplicableError(f"the checkpoint is one of {dict(contract.components)}")
    name = subject.component.name if kind in (None, subject.kind) else None
    return load_component(kind or subject.kind, subject.checkpoint, name=name)


def _contract(subject: Subject) -> Contract:
    contract = read_contract(subject.checkpoint) if subject.checkpoint else None
    if contract is None:
        raise NotApplicableError(
            "its checkpoint has no contract" if subject.checkpoint else "no checkpoint was given"
        )
    return contract


def _images(subject: Subject) -> Tensor:
    if subject.images is None:
        raise NotApplicableError("no images were given")
    return read_images(subject.images, MOST_IMAGES).images


def _declared(component: Component) -> dict[str, object]:
    if isinstance(component, Denoiser):
        label = component.conditioning.get("class_label")
        return {
            "latent_channels": component.latent_space.channels,
            "prediction": component.prediction,
            "classes": label.classes if label else None,
            "null_class": label.null if label else None,
        }
    codec = cast(Encoder | Decoder, component)
    return {
        "image_channels": codec.image_channels,
        "latent_channels": codec.latent_space.channels,
        "stride": codec.latent_space.stride,
    }


def _require_statistics(found: LatentStatistics, expected: LatentStatistics, tolerance: float) -> None:
    for what in ("mean", "std"):
        pairs = zip(getattr(found, what), getattr(expected, what), strict=True)
        for channel, (got, wanted) in enumerate(pairs):
            require(
                abs(got - wanted) <= tolerance,
                f"the {what} of channel {channel} is {got:.4f}; expected {wanted:.4f} within {tolerance:g}",
            )


CHECKS = (
    its_checkpoint_loads_and_runs,
    its_contract_says_what_it_is,
    its_golden_outputs_come_back,
    its_latents_are_as_measured,
    its_round_trip_is_as_recorded,
)
