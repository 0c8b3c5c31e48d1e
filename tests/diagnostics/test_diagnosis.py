from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from torch import nn

from ldm_registry.diagnostics import Begun, Report, diagnose, diagnosing
from ldm_registry.diagnostics.diagnosis import subject_of
from ldm_registry.diagnostics.report import Outcome
from ldm_registry.diagnostics.substitution import substitute
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Decoder, Encoder
from ldm_registry.pipeline import Pipeline
from ldm_registry.vocabulary import STAGES, Kind

pytestmark = pytest.mark.plugins


class _Dark(Decoder):
    """A decoder whose images come out in half the contrast."""

    name = "dark"

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return 0.4 * self.inner.decode(latent) - 0.5  # type: ignore[no-any-return]  # untyped module


class _Noisy(Encoder):
    """An encoder that adds noise to what another finds."""

    name = "noisy"

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def encode(self, image: torch.Tensor, generator: object = None) -> torch.Tensor:
        latent = self.inner.encode(image)
        return latent + 0.8 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(3)).to(latent)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return emoji_subject("emoji-kl-dit").pipe


@pytest.fixture(scope="module")
def states() -> list[list[object]]:
    """The state of the pipeline before and after its diagnosis."""
    return []


@pytest.fixture(scope="module")
def report(pipe: Pipeline, states: list[list[object]]) -> Report:
    # Neither in evaluation mode throughout, nor with gradients throughout.
    pipe.denoiser.train()
    frozen = next(pipe.decoder.parameters()).requires_grad_(False)
    states.append(state_of(pipe))
    found = diagnose(pipe, quick=True)
    states.append(state_of(pipe))
    pipe.denoiser.eval()
    frozen.requires_grad_(True)
    return found


def parts(pipe: Pipeline) -> Iterator[nn.Module]:
    for kind in STAGES:
        yield getattr(pipe, kind.value)


def state_of(pipe: Pipeline) -> list[object]:
    found: list[object] = [torch.get_rng_state().tolist()]
    for part in parts(pipe):
        for name, module in part.named_modules():
            hooks = [len(value) for key, value in sorted(vars(module).items()) if key.endswith("_hooks")]
            found.append((name, module.training, hooks, type(module), sorted(vars(module))))
        for name, tensor in (*part.named_parameters(), *part.named_buffers()):
            gradient = tensor.requires_grad, tensor.grad is None
            found.append(
                (name, tensor.dtype, gradient, tensor.detach().double().sum().item(), tensor.data_ptr())
            )
    return found


@pytest.mark.slow
def test_a_healthy_pipeline_is_healthy(report: Report) -> None:
    wrong = [suspicion for one in report.measurements for suspicion in one.suspicions]
    assert report.verdict.stage == "healthy", wrong
    assert report.exit_code == 0
    assert report.substitution is not None
    assert report.substitution.loss < report.substitution.noticeable


@pytest.mark.slow
def test_no_measurement_fails_on_a_healthy_pipeline(report: Report) -> None:
    assert [one.code for one in report.measurements if one.skipped and "ended with" in one.skipped] == []


@pytest.mark.slow
def test_a_diagnosis_leaves_the_pipeline_as_it_was(report: Report, states: list[list[object]]) -> None:
    before, after = states
    assert len(before) > 100
    assert after == before


@pytest.mark.slow
def test_shares_sum_to_the_lost_quality_and_the_replaced_stage_restores_it(pipe: Pipeline) -> None:
    broken = replace(pipe, decoder=_Dark(pipe.decoder))
    found = substitute(subject_of(broken, quick=True))
    assert len(found.losses) == 16
    assert found.loss > found.noticeable
    assert sum(found.shares.values()) == pytest.approx(found.loss)
    assert found.losses[frozenset({Kind.DECODER})] < 0.2 * found.loss
    assert max(found.shares, key=lambda stage: found.shares[stage]) is Kind.DECODER


@pytest.mark.slow
def test_an_encoder_that_loses_what_it_sees_holds_the_loss(pipe: Pipeline) -> None:
    found = substitute(subject_of(replace(pipe, encoder=_Noisy(pipe.encoder)), quick=True))
    assert found.loss > found.noticeable
    assert max(found.shares, key=lambda stage: found.shares[stage]) is Kind.ENCODER


@pytest.mark.slow
def test_a_broken_stage_is_named_with_its_evidence_and_exit_code(pipe: Pipeline) -> None:
    report = diagnose(replace(pipe, decoder=_Dark(pipe.decoder)), quick=True)
    assert report.verdict.stages == {Kind.DECODER}
    assert report.verdict.agreement is True
    assert report.verdict.evidence
    assert report.exit_code == 1


def test_a_stage_by_itself_runs_only_its_own_tests_and_replaces_nothing(pipe: Pipeline) -> None:
    report = diagnose(pipe, stage="scheduler", quick=True)
    assert report.stage is Kind.SCHEDULER
    assert report.substitution is None
    assert {one.code for one in report.measurements} == {"CON", "ORA"}
    assert report.verdict.outcome is Outcome.HEALTHY


def test_what_is_begun_is_said_before_it_runs_and_the_report_comes_last(pipe: Pipeline) -> None:
    *begun, last = diagnosing(pipe, stage="scheduler", quick=True)
    assert isinstance(last, Report)
    assert [(one.index, one.count) for one in begun if isinstance(one, Begun)] == [(0, 2), (1, 2)]


def test_one_stage_leaves_the_pipeline_as_it_was(pipe: Pipeline) -> None:
    before = state_of(pipe)
    diagnose(pipe, stage="scheduler", quick=True)
    assert state_of(pipe) == before


def test_images_that_do_not_fit_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(SpecError, match=r"\[2, 1, 64, 64\]"):
        diagnose(pipe, torch.zeros(2, 1, 64, 64))


def test_a_spec_without_images_says_that_it_needs_some(pipe: Pipeline) -> None:
    bare = replace(pipe, spec=pipe.spec.model_copy(update={"data": None}))
    with pytest.raises(SpecError, match="needs images"):
        diagnose(bare, quick=True)
    assert diagnose(bare, stage="scheduler", quick=True).verdict.outcome is Outcome.HEALTHY


@pytest.mark.slow
def test_the_document_holds_no_numbers_that_json_lacks(report: Report) -> None:
    import json

    document = json.loads(json.dumps(report.to_document(), allow_nan=False))
    assert document["verdict"]["stage"] == "healthy"
    assert len(document["substitution"]["losses"]) == 16
    assert sum(one["probability"] for one in document["verdict"]["candidates"]) == pytest.approx(1.0)


@pytest.mark.slow
def test_a_report_fits_on_one_screen(report: Report) -> None:
    from ldm_registry.report.diagnosis import render

    text = render(report)
    assert text.startswith("emoji-kl-dit: healthy")
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "emoji-kl-dit",
        "emoji-kl-unet",
        "emoji-vq-dit",
        "emoji-pixel-dit",
        "emoji-pixel-unet",
        "emoji-kl-ideal",
    ],
)
def test_a_pipeline_of_which_nothing_was_recorded_is_healthy_too(name: str) -> None:
    found = diagnose(replace(emoji_subject(name).pipe, contracts={}), quick=True)
    assert found.verdict.stage == "healthy", found.verdict.evidence
