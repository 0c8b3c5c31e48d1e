"""What is refused, noted or ignored when a training is taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_parts

from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec
from ldm_registry.training import Progress, train
from ldm_registry.training.state import FILE, read_notes


def run(spec: Path, *, resume: bool = True) -> list[Progress]:
    return list(train("encoder", load_spec(spec), registry=Registry([tiny_parts]), resume=resume))


def change(spec: Path, before: str, after: str) -> None:
    text = spec.read_text()
    assert before in text
    spec.write_text(text.replace(before, after))


@pytest.fixture
def trained(workshop: Callable[..., Path]) -> Path:
    spec = workshop()
    run(spec)
    return spec


def test_a_finished_training_has_nothing_left_to_do(trained: Path) -> None:
    weights = trained.parent / "codec" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    (only,) = run(trained)
    assert (only.step, only.stopped) == (12, "finished")
    assert weights.read_bytes() == before


def test_more_steps_go_on_and_the_card_says_so(trained: Path) -> None:
    change(trained, "codec: {steps: 12", "codec: {steps: 15")
    assert run(trained)[-1].step == 15
    assert "steps: 12 until step 12, then 15" in (trained.parent / "codec" / "README.md").read_text()


def test_other_settings_are_refused_with_both_values(trained: Path) -> None:
    change(trained, "codec: {steps: 12, batch: 8", "codec: {steps: 12, batch: 4")
    with pytest.raises(SpecError, match="other settings") as caught:
        run(trained)
    assert caught.value.problems == ("batch: 8 until step 12, then 4",)
    assert run(trained, resume=False)[-1].step == 12


def test_another_image_set_is_refused(trained: Path) -> None:
    images = trained.parent / "train.tar"
    images.write_bytes(images.read_bytes() + b"\0" * 512)
    with pytest.raises(CheckpointError, match="another training") as caught:
        run(trained)
    assert caught.value.problems[0].startswith("data: now ")


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_broken_state_is_refused_and_said_how_to_be_rid_of(trained: Path, damage: str) -> None:
    path = trained.parent / "codec" / ".training" / FILE
    content = {"cut": path.read_bytes()[:-100], "text": b"not safetensors at all", "empty": b""}[damage]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a training state") as caught:
        run(trained)
    assert "delete" in (caught.value.hint or "")


def test_a_half_written_state_is_passed_over(trained: Path) -> None:
    folder = trained.parent / "codec" / ".training"
    (folder / f".{FILE}.partial").write_bytes(b"cut off in the middle")
    assert run(trained)[-1].stopped == "finished"
    assert read_notes(folder)["step"] == 12
