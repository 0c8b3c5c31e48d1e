from __future__ import annotations

from pathlib import Path

import pytest

from ldm_registry.assembly import assemble
from ldm_registry.diagnostics import diagnose
from ldm_registry.diagnostics.report import Outcome
from ldm_registry.spec import load_spec
from ldm_registry.training import train
from ldm_registry.vocabulary import Kind

pytestmark = [pytest.mark.plugins, pytest.mark.slow]
SPECS = Path(__file__).parents[2] / "specs"
SPEC = """
extends: {specs}/train/emoji-kl-dit.yaml
denoiser: {{checkpoint: {folder}}}
data: {{images: {specs}/data/noto-emoji-64-val.tar, train: {specs}/data/noto-emoji-64-val.tar}}
train: {{denoiser: {{steps: {steps}, batch: 16, warmup: 2}}}}
"""


@pytest.mark.parametrize(
    ("steps", "outcomes"), [(3, {Outcome.QUALITY}), (20, {Outcome.QUALITY, Outcome.HEALTHY})]
)
def test_a_denoiser_that_was_trained_too_briefly_is_poor_and_not_broken(
    steps: int, outcomes: set[Outcome], tmp_path: Path
) -> None:
    spec = tmp_path / "young.yaml"
    spec.write_text(SPEC.format(specs=SPECS, folder=tmp_path / "young", steps=steps))
    *_, last = train("denoiser", load_spec(spec))
    assert last.stopped == "finished"
    verdict = diagnose(assemble(load_spec(spec)), quick=True).verdict
    assert verdict.outcome in outcomes, (verdict.fault, verdict.evidence)
    assert verdict.stages <= {Kind.DENOISER}
