from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject

from ldm_registry.diagnostics.golden_outputs import measure_golden_outputs
from ldm_registry.vocabulary import Kind

pytestmark = pytest.mark.plugins
SPECS = (
    "emoji-kl-dit",
    "emoji-kl-ideal",
    "emoji-kl-unet",
    "emoji-pixel-dit",
    "emoji-pixel-unet",
    "emoji-vq-dit",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_the_parts_of_a_bundled_spec_put_out_what_their_contracts_record(name: str) -> None:
    found = measure_golden_outputs(emoji_subject(name))
    assert found.is_healthy
    assert Kind.DENOISER in found.stages
    # They were recorded from the very files: what is left is the rounding of the record.
    assert all(metric.value < 2e-3 for metric in found.metrics)


@pytest.mark.parametrize("kind", [Kind.ENCODER, Kind.DENOISER, Kind.DECODER])
def test_one_changed_weight_tensor_names_its_stage_and_no_other(kind: Kind) -> None:
    subject = emoji_subject("emoji-kl-dit")
    weight = max(getattr(subject.pipe, kind).parameters(), key=torch.Tensor.numel)
    before = weight.detach().clone()
    # Not a factor: a normalisation behind the layer would take it out again.
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * before.std()
    with torch.no_grad():
        weight.add_(change)
        found = measure_golden_outputs(subject)
        weight.copy_(before)
    assert [suspicion.stages for suspicion in found.suspicions] == [{kind}]
    assert found.suspicions[0].strength > 0.6


def test_without_records_it_is_skipped_and_says_so() -> None:
    subject = emoji_subject("emoji-kl-dit")
    silent = replace(subject, pipe=replace(subject.pipe, contracts={}))
    assert "golden" in (measure_golden_outputs(silent).skipped or "")
