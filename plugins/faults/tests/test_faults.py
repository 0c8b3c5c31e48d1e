from __future__ import annotations

import copy

import pytest
import torch
from fault_specs import (
    BY_NAME,
    STRENGTHS,
    before,
    broken,
    difference,
    healthy,
    images,
    injured,
    noise_like,
    outputs,
    registry,
    sound,
)
from ldm_faults import FAULTS
from ldm_faults.times import _interpolated

from ldm_registry.assembly import assemble
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.spec import swap
from ldm_registry.vocabulary import STAGES, Kind

HARMFUL = [fault.name for fault in FAULTS if not fault.harmless]
CATALOGUE = [
    "F01", "F03", "F05", "F10", "F11", "F13", "F17", "F18", "F19", "F29", "F32", "F36",
    "F37", "F39", "F44", "F54", "F55", "F57", "F58", "F60", "F63", "F68", "F71", "F72",
]  # fmt: skip
PIXEL_REFUSED = {
    "half-precision-overflow", "wrong-scaling-factor", "dropped-shift", "wrong-codec-same-shape",
    "corrupted-decoder-weights", "tiled-decode", "collapsed-codebook",
}  # fmt: skip
TOLD_TIME = {
    "bfloat16-time", "swapped-sin-cos", "time-scale", "linear-for-scaled-linear", "ignored-zero-snr",
}  # fmt: skip
# A schedule of continuous time has no table of steps to mistake for another.
NO_TABLE = {"linear-for-scaled-linear", "ignored-zero-snr"}
REFUSED = {
    "emoji-kl-dit": {"collapsed-codebook"},
    "emoji-kl-unet": {"collapsed-codebook", "ignored-zero-snr", "reversed-velocity"},
    "emoji-vq-dit": NO_TABLE,
    "emoji-kl-ideal": {"collapsed-codebook", "random-weights", "reversed-velocity", *TOLD_TIME},
    "emoji-pixel-dit": PIXEL_REFUSED | NO_TABLE | {"reversed-velocity"},
    "emoji-pixel-unet": PIXEL_REFUSED | NO_TABLE,
}
HOME = {name: "emoji-vq-dit" if name == "collapsed-codebook" else "emoji-kl-dit" for name in HARMFUL}


def changes(spec: str, fault: str) -> list[float]:
    """How far the stages that a fault is at home in move, at each strength; the least of them."""
    stages, healthy_ones = BY_NAME[fault].stages, before(spec)
    return [
        min(difference(moved[stage], healthy_ones[stage]) for stage in stages)
        for strength in STRENGTHS
        for moved in [outputs(injured(spec, fault, strength), *stages)]
    ]


@pytest.mark.parametrize("fault", HARMFUL)
def test_a_fault_changes_its_own_stage_and_the_more_the_stronger_it_is(fault: str) -> None:
    weak, middle, strong = changes(HOME[fault], fault)
    # Of a network with a quarter of its layers at random little is left that more of them could destroy.
    least = 0.9 if fault == "random-weights" else 1.0
    assert weak > 0
    assert middle > least * weak
    assert strong > least * middle


@pytest.mark.slow
@pytest.mark.parametrize("fault", HARMFUL)
def test_a_spec_with_a_fault_assembles_and_its_other_stages_are_equal_to_the_bit(fault: str) -> None:
    spec, stages = HOME[fault], BY_NAME[fault].stages
    pipe = broken(spec, fault, 1.0)
    found, healthy_ones = outputs(pipe), before(spec)
    for stage in STAGES:
        assert torch.equal(found[stage], healthy_ones[stage]) != (stage in stages), stage
    pipe.sample(2, seed=3)
    if stages != (Kind.ENCODER,):
        assert difference(pipe.sample(2, seed=5), sound(spec).sample(2, seed=5)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", HARMFUL)
@pytest.mark.parametrize("spec", sorted(REFUSED))
def test_a_fault_works_wherever_it_makes_sense_and_is_refused_elsewhere(spec: str, fault: str) -> None:
    if fault in REFUSED[spec]:
        with pytest.raises(SpecError, match=f"fault '{fault}' cannot happen to") as caught:
            injured(spec, fault, 1.0)
        assert caught.value.problems
        return
    stages = BY_NAME[fault].stages
    moved = outputs(injured(spec, fault, 1.0), *stages)
    assert all(difference(moved[stage], before(spec)[stage]) > 0 for stage in stages)


def test_a_codec_of_one_kind_cannot_have_the_faults_of_another() -> None:
    with pytest.raises(SpecError, match="cannot happen to decoder 'kl-vae'") as caught:
        broken("emoji-kl-dit", "collapsed-codebook", 1.0)
    assert "no codebook" in caught.value.problems[0]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_negative_control_leaves_the_images_as_they_were(strength: float) -> None:
    pipe, expected = injured("emoji-kl-dit", "edm2-range", strength), before("emoji-kl-dit")
    for stage, found in outputs(pipe).items():
        torch.testing.assert_close(found, expected[stage], rtol=0, atol=1e-4)
    assert difference(pipe.sample(1, seed=5), sound("emoji-kl-dit").sample(1, seed=5)) < 1e-6
    assert getattr(pipe.encoder, "value_range") == (strength - 1.0, 1.0)  # noqa: B009 (no attribute of the interface)


def test_every_row_of_the_catalogue_has_a_fault() -> None:
    assert {fault.fault_id for fault in FAULTS} == set(CATALOGUE)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_says_the_truth_about_itself(fault: type) -> None:
    known = BY_NAME[fault.name]
    assert set(known.stages) <= set(known.modifies) <= set(STAGES)
    assert known.words or known.harmless
    assert known.fault_class
    assert (known.__doc__ or "").startswith(f"{known.fault_id}: ")
    assert all(field.description for field in known.Config.model_fields.values())


def test_another_codec_in_both_halves_leaves_the_round_trip_as_it_was() -> None:
    expected = sound("emoji-kl-dit").reconstruct(images())
    both = broken("emoji-kl-dit", "wrong-codec-same-shape", 1.0).reconstruct(images())
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-4)
    half = broken("emoji-kl-dit", "wrong-codec-same-shape", 1.0, Kind.DECODER).reconstruct(images())
    assert difference(half, expected) > 0.05


def test_the_first_run_of_a_sampler_with_history_is_right_and_the_next_is_not() -> None:
    leaky = broken("emoji-kl-dit", "history-not-reset", 1.0)
    assert torch.equal(leaky.sample(2, seed=5), sound("emoji-kl-dit").sample(2, seed=5))
    assert not torch.equal(leaky.sample(2, seed=5), sound("emoji-kl-dit").sample(2, seed=5))


def test_a_faulty_part_keeps_its_weights_their_names_and_what_it_declares() -> None:
    before_it, pipe = sound("emoji-kl-dit"), injured("emoji-kl-dit", "epsilon-for-v", 1.0)
    for stage in STAGES:
        one, other = getattr(before_it, stage), getattr(pipe, stage)
        assert isinstance(other, type(one))
        assert list(one.state_dict()) == list(other.state_dict())
        assert one.config == other.config
    assert pipe.denoiser.prediction is before_it.denoiser.prediction
    assert pipe.denoiser.latent_space == before_it.denoiser.latent_space


def test_a_copy_of_a_faulty_part_has_the_fault_too() -> None:
    decoder = broken("emoji-kl-dit", "unmapped-output", 1.0).decoder
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy.deepcopy(decoder).decode(latent), decoder.decode(latent))


def test_two_faults_of_one_stage_add_up() -> None:
    both = swap(
        healthy("emoji-kl-dit"),
        decoder_modify=[{"use": "unmapped-output"}, {"use": "wrong-scaling-factor"}],
    )
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = 2 * sound("emoji-kl-dit").decoder.decode((0.13025 / 0.18215) * latent) - 1
    torch.testing.assert_close(assemble(both, registry()).decoder.decode(latent), expected)


def test_a_time_that_passed_through_bfloat16_is_the_one_of_the_report() -> None:
    denoiser = broken("emoji-kl-dit", "bfloat16-time", 1.0).denoiser
    schedule = denoiser.training_schedule
    assert schedule is not None
    told = denoiser.trained.network_time(schedule.level(torch.tensor([937.0, 12.0], dtype=torch.float64)))  # type: ignore[union-attr, operator]  # not of the interface: networks have it
    assert told.tolist() == [936.0, 12.0]


def test_the_wrong_reading_of_an_output_is_the_one_of_epsilon() -> None:
    right = before("emoji-kl-dit")
    wrong = outputs(injured("emoji-kl-dit", "epsilon-for-v", 1.0), Kind.DENOISER)[Kind.DENOISER]
    # At alpha = sigma the v reading is (z - v) / sqrt(2) and the epsilon reading (z - v / sqrt(2)) * sqrt(2).
    latents = right[Kind.ENCODER][:4]
    z = NoiseLevel.of(0.7071068, 0.7071068).add_noise(latents, noise_like(latents))
    v = z - 2**0.5 * right[Kind.DENOISER][2]
    torch.testing.assert_close(wrong[2], 2**0.5 * z - v, rtol=0, atol=1e-4)


def test_a_table_is_read_between_its_entries() -> None:
    table = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
    values = torch.tensor([-9.0, -2.0, -1.0, 0.25, 1.0, 7.0], dtype=torch.float64)
    assert _interpolated(values, table).tolist() == [0.0, 0.0, 0.5, 1.25, 2.0, 2.0]
    assert _interpolated(values[2], table).item() == 0.5
