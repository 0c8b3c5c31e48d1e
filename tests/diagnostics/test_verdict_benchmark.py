from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from ldm_registry.diagnostics.benchmark import CONTROL, Refused, Score, cells, confusion, rates, store, stored
from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.report.verdict_benchmark import describe, render
from ldm_registry.spec import load_spec

RIGHT = Score("a f 1", "encoder", "encoder", 0.9, "half contrast", True, True, 20.0, 1.0)
WRONG = replace(RIGHT, key="a g 1", verdict="decoder", is_right=False, is_class_right=None)
UNSEEN = replace(WRONG, key="a h 1", visible_psnr_db=45.0)
UNDECIDED = replace(WRONG, key="a i 1", verdict="undecided")
SOUND = replace(
    RIGHT, key="a as it is 0", truth=CONTROL, verdict="healthy", visible_psnr_db=None, is_class_right=None
)
ALARM = replace(SOUND, key="a seed 1 0", verdict="decoder", is_right=False)


def test_rates_count_only_faults_that_can_be_seen() -> None:
    found = rates([RIGHT, RIGHT, WRONG, UNDECIDED, UNSEEN, SOUND])
    assert found == {
        "right": 0.5,
        "undecided": 0.25,
        "wrong": 0.25,
        "class_right": 1.0,
        "false_alarms": 0.0,
        "healthy_undecided": 0.0,
    }


def test_a_healthy_pipeline_that_is_blamed_is_a_false_alarm() -> None:
    assert rates([SOUND, ALARM])["false_alarms"] == 0.5
    assert rates([])["false_alarms"] is None


def test_a_healthy_pipeline_about_which_nothing_is_decided_blames_nobody_and_is_counted() -> None:
    unsure = replace(SOUND, key="a seed 2 0", verdict="undecided")
    found = rates([SOUND, unsure])
    assert found["false_alarms"] == 0.0
    assert found["healthy_undecided"] == 0.5


def test_the_matrix_holds_every_visible_fault_and_every_control_once() -> None:
    scores = [RIGHT, WRONG, UNDECIDED, UNSEEN, SOUND, ALARM]
    matrix = confusion(scores)
    assert matrix == {
        "encoder": {"encoder": 1, "decoder": 1, "undecided": 1},
        "healthy": {"healthy": 1, "decoder": 1},
    }
    assert describe(scores)["confusion"] == matrix


def test_the_text_names_what_was_not_right() -> None:
    text = render([RIGHT, WRONG, SOUND])
    assert "a g 1" in text
    assert "a f 1" not in text


def test_the_right_part_with_another_class_of_fault_is_listed_by_itself() -> None:
    text = render([RIGHT, replace(RIGHT, key="a misnamed 0.5", is_class_right=False), SOUND])
    assert "not the right part" not in text
    assert "a misnamed 0.5" in text.partition("another class of fault")[2]


def test_each_fault_has_one_row_with_the_specs_in_which_it_was_found_at_each_strength() -> None:
    scores = [
        RIGHT,
        replace(RIGHT, key="b f 1"),
        replace(UNDECIDED, key="c f 1"),
        replace(RIGHT, key="a f 0.5", visible_psnr_db=None),
        replace(WRONG, key="b f 0.5"),
    ]
    (row,) = [line for line in render(scores, markdown=True).splitlines() if line.startswith("| f |")]
    assert row == "| f | encoder | 0 of 1 | 2 of 3 | 2 of 2 | undecided 1, decoder 1 | 1 of 1 |"


def test_markdown_tables_have_as_many_cells_in_each_row_as_their_heads() -> None:
    piped = replace(WRONG, fault="a | b")
    lines = render([RIGHT, piped, UNDECIDED, SOUND, ALARM], 3, markdown=True).splitlines()
    tables = [list(rows) for is_row, rows in groupby(lines, lambda line: line.startswith("|")) if is_row]
    assert len(tables) >= 6
    for rows in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert set(rows[1]) <= set("|-: ")
    assert "3 faults do not apply" in lines[0]


@pytest.mark.parametrize(("share", "said"), [(20, "yes"), (10, "no")])
def test_a_rate_stands_beside_what_is_asked_of_it(share: int, said: str) -> None:
    text = render([replace(RIGHT, key=f"a f{index} 1") for index in range(share)] + [WRONG])
    (row,) = [line for line in text.splitlines() if line.startswith("right stage")]
    assert row.endswith(f"at least 95%  {said}")


def test_a_score_knows_its_spec_its_case_and_its_strength() -> None:
    one = replace(SOUND, key="emoji-kl-dit sampler euler 0")
    assert (one.spec, one.case, one.strength) == ("emoji-kl-dit", "sampler euler", 0.0)


def test_scores_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    assert stored(path) == []
    refused = Refused("a b 1", "there is no codebook")
    for one in (RIGHT, SOUND, refused):
        store(path, one)
    assert stored(path) == [RIGHT, SOUND, refused]


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"key": 1}\n')
    with pytest.raises(SpecError, match="no scores"):
        stored(path)


@pytest.mark.plugins
def test_controls_are_the_spec_itself_other_seeds_fewer_steps_and_other_samplers() -> None:
    planned = list(cells([("emoji-kl-dit", load_spec("emoji-kl-dit"))], faults=[]))
    assert [one.stages for one in planned] == [()] * len(planned)
    about = [one.fault for one in planned]
    assert about[:4] == ["as it is", "seed 1", "seed 2", "10 steps"]
    assert len([name for name in about if name.startswith("sampler")]) >= 3
    assert len({one.key for one in planned}) == len(planned)
    assert planned[3].changed.scheduler.config["steps"] == 10


@pytest.mark.plugins
def test_every_fault_comes_at_every_strength_and_knows_whom_to_blame() -> None:
    planned = list(cells([("emoji-kl-dit", load_spec("emoji-kl-dit"))], controls=False))
    names = {one.fault for one in planned}
    assert len(planned) == 3 * len(names)
    assert all(one.stages for one in planned if one.fault != "edm2-range")


@pytest.mark.plugins
def test_a_fault_that_is_not_installed_is_said_not_to_be() -> None:
    with pytest.raises(NotFoundError, match="no-such-fault"):
        list(cells([("emoji-kl-dit", load_spec("emoji-kl-dit"))], faults=["no-such-fault"]))
