from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_plugin
import toy_text
from diagnostics.emoji_subjects import emoji_subject
from diagnostics.test_diagnosis import state_of
from torch import Tensor, nn

from ldm_registry.assembly import assemble
from ldm_registry.cli.app import invoke
from ldm_registry.diagnostics import Begun, Crossing, diagnose_against, diagnosing_against
from ldm_registry.diagnostics.agreement import Match, is_equal, precision_of, relative_error
from ldm_registry.diagnostics.crossed_runs import finest_parts
from ldm_registry.diagnostics.crossing import Agreement
from ldm_registry.diagnostics.differing import differing_tensors
from ldm_registry.diagnostics.module_walk import walk
from ldm_registry.interfaces import Conditioner, Decoder, Encoder
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.report.against import render
from ldm_registry.report.html.against_page import render_html
from ldm_registry.spec import load_spec, swap
from ldm_registry.vocabulary import STAGES, Kind

pytestmark = pytest.mark.plugins

TEXTS = """
version: 1
image: {channels: 3, size: 16}
encoder: {use: toy-codec}
denoiser: {use: toy-reader, trained: {prediction: v, schedule: {name: toy_schedule}}}
scheduler: {use: toy-scheduler, config: {steps: 3}}
decoder: {use: toy-codec}
conditioners: {text: {use: toy-writer}}
condition: {prompt: [one, two]}
"""
WORST_CASE = 60
"""Lines of a report whose stages all differ."""


class _Dark(Decoder):
    """A decoder whose images come out in half the contrast."""

    name = "dark"

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def decode(self, latent: Tensor) -> Tensor:
        return 0.4 * self.inner.decode(latent) - 0.5  # type: ignore[no-any-return]  # untyped module


class _Halved(Encoder):
    """An encoder whose latents have half their scale."""

    name = "halved"

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def encode(self, image: Tensor, generator: object = None) -> Tensor:
        return 0.5 * self.inner.encode(image)  # type: ignore[no-any-return]  # untyped module


class _Louder(Conditioner):
    """A conditioner whose embeddings are a tenth larger."""

    name = "louder"

    def __init__(self, inner: Conditioner) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        return {name: 1.1 * value for name, value in self.inner.encode(texts, size).items()}


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    """The smallest of the bundled samplers' settings: two steps."""
    return assemble(swap(load_spec("emoji-kl-dit"), scheduler_config={"steps": 2}))


@pytest.fixture(scope="module")
def images() -> Tensor:
    found: Tensor = emoji_subject("emoji-kl-dit").images[:3]
    return found


def changed(part: nn.Module, name: str, by: float) -> nn.Module:
    """A copy of a part with one weight moved."""
    twin = copy.deepcopy(part)
    with torch.no_grad():
        twin.get_parameter(name).flatten()[0].add_(by)
    return twin


def against(pipe: Pipeline, images: Tensor, **parts: object) -> Crossing:
    condition = {"class_label": torch.tensor([0, 1, 2])}
    other = replace(pipe, **parts)  # type: ignore[arg-type]  # any of its fields
    return diagnose_against(pipe, other, images, condition=condition, quick=True)


@pytest.fixture(scope="module")
def dark(pipe: Pipeline, images: Tensor) -> Crossing:
    return against(pipe, images, decoder=_Dark(pipe.decoder))


def test_a_copy_is_bit_equal_and_left_as_it_was(pipe: Pipeline, images: Tensor) -> None:
    other = replace(pipe, denoiser=copy.deepcopy(pipe.denoiser).train(), decoder=copy.deepcopy(pipe.decoder))
    before = state_of(pipe), state_of(other)
    found = diagnose_against(pipe, other, images, quick=True)
    assert found.agreement is Agreement.EQUAL
    assert found.exit_code == 0
    assert found.difference == 0.0
    assert found.identical == frozenset(STAGES)
    assert found.first is None
    assert {one.match for one in found.parities} == {Match.EQUAL}
    assert (state_of(pipe), state_of(other)) == before


def test_a_changed_decoder_carries_the_difference(dark: Crossing) -> None:
    assert dark.agreement is Agreement.STAGE
    assert dark.stages == {Kind.DECODER}
    assert dark.confidence > 0.8
    assert dark.exit_code == 1
    assert dark.better == 0
    assert dark.first is not None
    assert dark.first.stage is Kind.DECODER


@pytest.mark.slow
def test_a_changed_encoder_carries_the_difference(pipe: Pipeline, images: Tensor) -> None:
    found = against(pipe, images, encoder=_Halved(pipe.encoder))
    assert found.stages == {Kind.ENCODER}
    assert found.agreement is Agreement.STAGE
    assert found.confidence > 0.8


@pytest.mark.slow
def test_another_sampler_carries_the_difference_from_the_step_at_which_it_asks_otherwise(
    pipe: Pipeline, images: Tensor
) -> None:
    other = assemble(swap(pipe.spec, scheduler_config={"steps": 3}))
    found = against(pipe, images, scheduler=other.scheduler, spec=other.spec)
    assert found.stages == {Kind.SCHEDULER}
    assert found.first is not None
    assert (found.first.stage, found.first.step) == (Kind.SCHEDULER, 0)
    assert "config steps: 2 against 3" in found.first.settings


def test_one_weight_is_named_with_its_module(pipe: Pipeline, images: Tensor) -> None:
    weight = "transformer_blocks.2.ff.net.0.proj.weight"
    found = against(pipe, images, denoiser=changed(pipe.denoiser, weight, 1e-2))
    assert found.stages == {Kind.DENOISER}
    first = found.first
    assert first is not None
    assert first.step == 0
    assert first.module == weight.removesuffix(".weight")
    assert first.modules[0] == 1
    assert [tensor.name for tensor in first.tensors] == [weight]
    assert weight in render(found)


@pytest.mark.slow
def test_a_weight_inside_a_wrapper_is_found(pipe: Pipeline, images: Tensor) -> None:
    weight = "decoder.conv_out.weight"
    decoder = _Dark(changed(pipe.decoder, weight, 1e-2))  # type: ignore[arg-type]  # a copy of a decoder
    found = against(pipe, images, decoder=decoder)
    assert found.first is not None
    assert found.first.module == "decoder.conv_out"


@pytest.mark.slow
def test_shares_sum_to_the_difference_of_two_changed_stages(pipe: Pipeline, images: Tensor) -> None:
    found = against(pipe, images, encoder=_Halved(pipe.encoder), decoder=_Dark(pipe.decoder))
    assert len(found.crossed) == 4
    assert sum(found.shares.values()) == pytest.approx(found.difference)
    assert set(found.shares) == {frozenset({Kind.ENCODER}), frozenset({Kind.DECODER})}


@pytest.mark.slow
def test_half_precision_is_rounding_and_its_size_is_said(pipe: Pipeline, images: Tensor) -> None:
    other = replace(pipe, decoder=copy.deepcopy(pipe.decoder).to(torch.bfloat16))
    found = diagnose_against(pipe, other, images, stage="decoder", quick=True)
    assert found.agreement is Agreement.ROUNDING
    assert found.exit_code == 0
    decoding = found.parities[-1]
    assert decoding.match is Match.ROUNDING
    assert 0.0 < decoding.relative_error < decoding.tolerance
    assert decoding.tensors == ()
    assert "rounding of bfloat16" in render(found)
    assert found.difference is not None
    assert 0.0 < found.difference < 3.0


@pytest.mark.slow
def test_a_weight_that_rounding_does_not_explain_is_a_difference_in_half_precision(
    pipe: Pipeline, images: Tensor
) -> None:
    weight = "decoder.conv_out.weight"
    decoder = changed(pipe.decoder, weight, 0.05).to(torch.bfloat16)
    found = against(pipe, images, decoder=decoder)
    assert found.stages == {Kind.DECODER}
    assert found.parities[-1].tensors[0].name == weight


@pytest.mark.slow
def test_latents_of_other_shapes_are_not_crossed_and_the_reason_is_said(
    pipe: Pipeline, images: Tensor
) -> None:
    other = assemble(swap(load_spec("emoji-pixel-dit"), scheduler_config={"steps": 2}))
    found = diagnose_against(pipe, other, images, quick=True)
    refused = {one.taken: one.reasons for one in found.crossed if one.difference is None}
    assert "expects 3 latent channels" in refused[frozenset({Kind.DECODER})][0]
    assert found.agreement is Agreement.TOGETHER
    assert found.exit_code == 1
    assert found.difference
    text = render(found)
    assert "not crossed" in text
    assert len(text.splitlines()) <= WORST_CASE
    assert "Not crossed" in render_html(found)


@pytest.mark.slow
def test_a_stage_by_itself_is_the_only_one_that_is_exchanged(pipe: Pipeline, images: Tensor) -> None:
    other = replace(pipe, encoder=_Halved(pipe.encoder), decoder=_Dark(pipe.decoder))
    *begun, found = diagnosing_against(pipe, other, images, stage="decoder", quick=True)
    assert isinstance(found, Crossing)
    assert [one.taken for one in found.crossed] == [frozenset(), {Kind.DECODER}]
    assert [one.stage for one in found.parities] == [Kind.DECODER]
    assert found.stages == {Kind.DECODER}
    assert all(isinstance(one, Begun) and one.index < one.count for one in begun)


@pytest.mark.slow
def test_without_known_images_the_difference_is_measured_and_quality_is_not(pipe: Pipeline) -> None:
    bare = replace(pipe, spec=pipe.spec.model_copy(update={"data": None}))
    found = diagnose_against(bare, replace(bare, encoder=_Halved(pipe.encoder)), quick=True)
    assert found.stages == {Kind.ENCODER}
    assert found.known == 0
    assert found.better is None
    assert found.crossed[0].round_trip_db is None


def test_the_document_holds_no_numbers_that_json_lacks(dark: Crossing) -> None:
    document = json.loads(json.dumps(dark.to_document(), allow_nan=False))
    assert document["verdict"]["stage"] == "decoder"
    assert document["verdict"]["better"] == dark.names[0]
    assert [one["taken"] for one in document["crossings"]] == [[], ["decoder"]]
    assert [one["match"] for one in document["parity"]][-1] == "different"


def test_the_page_shows_both_pipelines_and_needs_nothing_else(dark: Crossing) -> None:
    page = render_html(dark)
    assert page.count('src="data:image/png;base64,') == len(dark.pictures) == 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "The decoder carries the difference" in page
    assert render_html(dark) == page


@pytest.mark.slow
def test_the_command_ends_with_1_where_two_specs_differ_and_with_0_where_they_do_not(tmp_path: Path) -> None:
    for name, steps in (("one", 2), ("two", 3)):
        text = f"extends: emoji-kl-dit\nscheduler: {{config: {{steps: {steps}}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    one, two = (str(tmp_path / f"{name}.yaml") for name in ("one", "two"))
    asked = ["diagnose", one, "scheduler", "--quick", "--json", "--against"]
    page = tmp_path / "page.html"
    differing = invoke([*asked, two, "-o", str(page)])
    assert differing is not None
    assert differing.exit_code == 1
    assert differing.document["verdict"]["stage"] == "scheduler"
    assert differing.document["second"] == "two"
    assert "carries the difference" in page.read_text("utf-8")
    same = invoke([*asked, one])
    assert same is not None
    assert same.exit_code == 0
    assert same.document["verdict"]["agreement"] == "equal"


def test_another_reading_of_a_text_is_the_conditioner_s_doing(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(TEXTS)
    registry = Registry([toy_plugin, toy_text])
    one, other = (assemble(load_spec(path), registry, init_seed=4) for _ in range(2))
    assert diagnose_against(one, other, quick=True).agreement is Agreement.EQUAL
    other = replace(other, conditioners={"text": _Louder(other.conditioners["text"])})
    found = diagnose_against(one, other, quick=True)
    assert found.stages == {Kind.DENOISER}
    assert found.first is not None
    assert any("conditioner text gives another text_embedding" in note for note in found.first.notes)
    assert "other conditions" in render(found)


def test_the_finest_parts_are_those_whose_unions_can_all_be_run() -> None:
    encoder, denoiser, scheduler, decoder = (frozenset({kind}) for kind in STAGES)
    codec = encoder | decoder
    runs = [codec, denoiser, codec | denoiser]
    assert set(finest_parts((Kind.ENCODER, Kind.DENOISER, Kind.DECODER), runs)) == {codec, denoiser}
    assert finest_parts((Kind.SCHEDULER,), [scheduler]) == (scheduler,)
    assert finest_parts(STAGES, [encoder, decoder]) == (frozenset(STAGES),)


def test_a_difference_inside_is_not_blamed_on_what_is_around_or_after_it() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), nn.Linear(4, 2)
    )
    other = changed(one, "1.1.weight", 1.0)
    walked = walk(one, other, lambda: one(torch.randn(3, 4)))
    assert [gap.name for gap in walked.culprits] == ["1.1"]
    assert {gap.name for gap in walked.gaps if gap.match is Match.DIFFERENT} == {"1.1", "1", ""}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())


def test_weights_rounded_to_half_precision_are_the_same_up_to_rounding_and_moved_ones_are_not() -> None:
    torch.manual_seed(0)
    one = nn.Linear(64, 64)
    half = copy.deepcopy(one).half()
    precision = precision_of(one, half)
    assert precision.name == "float16"
    assert differing_tensors(one, half, precision) == ()
    moved = differing_tensors(one, changed(half, "bias", 0.01), precision)
    assert [tensor.name for tensor in moved] == ["bias"]


def test_relative_errors_know_shapes_and_what_is_not_a_number() -> None:
    ones = torch.ones(4)
    assert relative_error(ones, 1.5 * ones) == pytest.approx(0.5)
    assert relative_error(ones, torch.ones(5)) == float("inf")
    broken = torch.tensor([1.0, float("nan")])
    assert relative_error(broken, torch.ones(2)) == float("inf")
    assert is_equal(broken, broken.clone())
