from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ldm_registry.spec import load_spec

pytestmark = pytest.mark.plugins


@pytest.mark.parametrize(
    "changes",
    [["denoiser=ideal"], ["scheduler=heun", "scheduler.steps=4"], ["decoder=vq-vae"]],
    ids=" ".join,
)
def test_each_part_of_a_bundled_spec_can_be_swapped_by_one_line(
    ldm: Any, changes: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "new.yaml"
    assert ldm("swap", "emoji-kl-dit", *changes, "-o", path).code == 0
    assert ldm("trace", path).code == 0


def test_an_oracle_samples_along_the_schedule_of_the_denoiser_that_it_replaces(
    ldm: Any, tmp_path: Path
) -> None:
    path = tmp_path / "new.yaml"
    ldm("swap", "emoji-kl-dit", "denoiser=ideal", "-o", path)
    schedule = load_spec(path).scheduler.schedule
    assert schedule is not None
    assert schedule.name == "squaredcos_cap_v2"


def test_a_decoder_of_another_codec_is_swapped_in_with_a_warning(ldm: Any) -> None:
    ended = ldm("swap", "emoji-kl-dit", "decoder=vq-vae", "--json")
    assert any("another codec" in warning for warning in ended.document["warnings"])


def test_a_decoder_of_another_shape_is_refused_with_what_would_fit(ldm: Any) -> None:
    ended = ldm("swap", "emoji-kl-dit", "decoder=identity")
    assert ended.code == 1
    assert "what fits as decoder: kl-vae, vq-vae:checkpoints/emoji-vq-vae (with a warning)" in ended.err
