from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_pipelines
from backward_engine import Backwards

from ldm_registry.engines.here import Here
from ldm_registry.errors import CheckpointError, NotFoundError, SpecError
from ldm_registry.matrix import Failed, exit_code, outcomes
from ldm_registry.report import comparison, measurement
from ldm_registry.report.comparison import Asked, Compared, ask, claim, compare, to_document, write
from ldm_registry.report.comparison_table import MOST_COLUMNS, line, render
from ldm_registry.report.measurement import Measurement
from ldm_registry.spec import dump_spec, swap

UNREAD = Failed("b", "NotFoundError: there is no spec 'b'", ("bundled specs: a",))


def figures(asked: Asked) -> Compared:
    """Figures that say which spec they are of; a spec called `broken` has none."""
    if asked.name == "broken":
        raise CheckpointError("the checkpoint is damaged", ["a tensor is missing"], hint="fetch it again")
    if asked.name == "dead":
        raise MemoryError
    steps = int(asked.spec.scheduler.config.get("steps", 4))
    measured = Measurement(asked.name, asked.n, 64, 100, 10, steps, steps, 1.0, 2.0, 0.5, None, "cpu")
    seeds = tuple(range(asked.seed, asked.seed + asked.n))
    return Compared(measured, torch.zeros(asked.n, 16, 16, 3, dtype=torch.uint8), seeds)


def rows(*names: str, engine: Backwards | None = None) -> list[comparison.Row]:
    specs = [
        UNREAD if name == "b" else (name, swap(toy_pipelines.SPEC, scheduler_config={"steps": steps + 1}))
        for steps, name in enumerate(names)
    ]
    found = dict(compare(ask(specs, 2, None), engine or Backwards(figures)))
    return [found[place] for place in range(len(names))]


def test_rows_have_the_order_of_the_specs_whatever_the_order_in_which_they_were_done() -> None:
    document = to_document(rows("a", "b", "broken", "c"))
    assert [row["spec"] for row in document["specs"]] == ["a", "b", "broken", "c"]
    assert [row.get("steps") for row in document["specs"]] == [1, None, None, 4]
    assert document["first_over_each"]["steps"] == [1.0, None, None, 0.25]
    assert document["seeds"] == [0, 1]
    assert document["failed"] == 2
    json.dumps(document, allow_nan=False)


def test_a_spec_that_fails_says_why_in_its_row_and_in_the_text() -> None:
    found = rows("a", "broken", "b")
    assert to_document(found)["specs"][1] == {
        "spec": "broken",
        "error": "CheckpointError: the checkpoint is damaged",
        "problems": ["a tensor is missing", "fetch it again"],
    }
    text = render(found)
    assert text.splitlines()[0].split() == ["2", "images", "at", "once", "a"]
    assert "failed: 2\n  broken: CheckpointError: the checkpoint is damaged\n    a tensor is missing" in text
    assert [line(row) for row in found[:2]] == [
        "a: 2 ms an image",
        "broken: CheckpointError: the checkpoint is damaged",
    ]


def test_multiples_count_from_the_first_spec_that_has_figures() -> None:
    assert to_document(rows("broken", "a", "c"))["first_over_each"]["steps"] == [None, 1.0, 2 / 3]


def test_the_seed_is_that_of_the_first_spec_that_could_be_read() -> None:
    seeded = swap(toy_pipelines.SPEC, seed=9)
    others = ("c", toy_pipelines.SPEC)
    assert [one.seed for one in ask([UNREAD, ("a", seeded), others], 2, None)[1:]] == [9, 9]  # type: ignore[union-attr]  # these were read
    assert [one.seed for one in ask([UNREAD, ("a", seeded), others], 2, 3)[1:]] == [3, 3]  # type: ignore[union-attr]  # these were read


def test_specs_of_other_sizes_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(SpecError, match="one image size"):
        ask([("a", toy_pipelines.SPEC), UNREAD, ("c", swap(toy_pipelines.SPEC, image_size=32))], 2, None)


def test_many_specs_stand_below_one_another() -> None:
    names = [f"spec-{index}" for index in range(MOST_COLUMNS + 1)]
    lines = render(rows(*names)).splitlines()
    assert [one.split()[0] for one in lines[1:]] == names
    assert len({len(one) for one in lines}) == 1, "aligned to the right"


def test_the_picture_leaves_out_what_failed_and_a_report_without_figures_has_none(tmp_path: Path) -> None:
    found = rows("a", "broken", "c")
    shown = write(tmp_path / "out", found, to_document(found))
    assert shown is not None
    height = comparison.picture([row for row in found if isinstance(row, Compared)]).height
    from PIL import Image

    with Image.open(shown) as drawn:
        assert drawn.height == height
    nothing = rows("broken", "b")
    claim(tmp_path / "out", overwrite=False)
    assert write(tmp_path / "out", nothing, to_document(nothing)) is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["compare.json"]
    assert render(nothing).startswith("failed: 2")


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(SpecError, match="no earlier comparison"):
        claim(tmp_path, overwrite=False)
    claim(tmp_path, overwrite=True)
    with pytest.raises(SpecError, match="is a file"):
        claim(tmp_path / "mine", overwrite=True)


def test_the_exit_code_says_that_a_file_was_refused_or_that_some_or_all_failed() -> None:
    missing, damaged, odd = UNREAD, Failed.of("x", CheckpointError("damaged")), Failed("y", "MemoryError")
    assert exit_code([], 3) == 0
    assert exit_code([missing], 3) == exit_code([odd, missing], 3) == 1
    assert exit_code([missing, damaged], 3) == CheckpointError.exit_code
    assert exit_code([missing, odd], 2) == NotFoundError.exit_code
    assert exit_code([missing, damaged], 2) == CheckpointError.exit_code
    assert exit_code([odd], 1) == 70
    assert Failed("z", "errors: not a class").exit_code == 70


def test_on_ray_a_spec_that_names_several_gpus_is_refused_and_here_it_is_not() -> None:
    spec = swap(toy_pipelines.SPEC, denoiser_device="cuda:1")
    engine = Backwards()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "name", "ray")
        with pytest.raises(SpecError, match="one GPU"):
            list(outcomes(engine, abs, [-1], [spec]))
    assert [one.result for one in outcomes(Here(), abs, [-1], [spec])] == [1]


def test_a_process_that_ends_without_an_answer_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(code: int) -> Failed:
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code))
        row = comparison.measure_apart(Asked("a", toy_pipelines.SPEC, 2, 0))
        assert isinstance(row, Failed)
        return row

    assert ended(-9).error == "ResourceError: the process that measured it was ended by signal 9"
    assert ended(-9).exit_code == 7
    assert ended(3).exit_code == 70


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "ResourceError: there was not enough memory"),
        (RuntimeError("can't allocate memory: you tried"), "ResourceError: there was not enough memory"),
        (CheckpointError("it is damaged", hint="fetch it"), "CheckpointError: it is damaged"),
        (ZeroDivisionError("nothing"), "ZeroDivisionError: nothing"),
    ],
)
def test_whatever_a_measurement_ends_with_is_told_to_who_asked(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    (tmp_path / "spec.yaml").write_text(dump_spec(toy_pipelines.SPEC))
    request = {"spec": "spec.yaml", "name": "a", "n": 1, "seed": 0, "threads": torch.get_num_threads()}
    (tmp_path / "request.json").write_text(json.dumps(request))
    monkeypatch.setattr(measurement, "measure", fails)
    monkeypatch.setattr(sys, "argv", ["measurement", str(tmp_path / "request.json")])
    assert measurement.main() == 0
    answer = json.loads((tmp_path / measurement.ANSWER).read_text())
    assert answer["error"] == said
    assert isinstance(answer["lines"], list)
