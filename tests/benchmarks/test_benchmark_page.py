"""The figures in docs/benchmarks.md are those of docs/benchmarks.json, and the harness computes what it says."""

from __future__ import annotations

import json
import re

import pytest
from page import BEGIN, PAGE, STORED, figures, groups_of, merged, renewed
from result import Result, quantity
from turns import Turns

MACHINE = {
    "processor": "a processor",
    "instructions": "AVX2",
    "threads": 2,
    "cores": 2,
    "accelerators": {},
    "python": "3.11",
    "packages": {"torch": "2.13"},
}


def report(*results: Result, group: str = "networks", smoke: bool = False) -> dict[str, object]:
    """As pytest-benchmark writes it, as far as it is read."""
    cases = [{"group": group, "extra_info": {"results": [result.dump() for result in results]}}]
    machine = {"ldm_registry": {**MACHINE, "smoke": smoke}}
    stored = {"machine_info": machine, "datetime": "2026-01-31T00:00:00", "benchmarks": cases}
    return json.loads(json.dumps(stored))


def test_the_page_shows_the_stored_figures() -> None:
    page, groups = PAGE.read_text("utf-8"), json.loads(STORED.read_text("utf-8"))
    assert renewed(page, groups) == page
    assert all(group["results"] for group in groups)
    assert renewed(page, groups[1:]) != page


def test_a_report_becomes_a_line_with_ratio_spread_goal_and_share() -> None:
    line = Result("DiT", 0.12, "s", 0.16, 0.75, (0.74, 0.77), 7, goal=0.85, of_ceiling=0.88)
    text = "\n".join(figures(groups_of(report(line))))
    assert "| DiT | 120 ms | 160 ms | 0.750 | 0.740 ... 0.770 | <= 0.85: met | 88% |" in text
    assert "Every goal was met." in text


def test_a_missed_goal_is_listed_with_what_the_machine_allows() -> None:
    slow = Result("decode", 1.0, "s", 1.0, 1.0, (1.0, 1.0), 7, goal=0.85, of_ceiling=0.97)
    text = "\n".join(figures(groups_of(report(slow, Result("step", 150e-6, limit=100e-6)))))
    assert "- decode: 1.000 at 97% of what the bare operations allow (<= 0.85)" in text
    assert "- step: 150 us (<= 100 us)" in text


def test_a_new_run_replaces_its_own_groups_alone() -> None:
    old = groups_of(report(Result("a", 1.0))) + groups_of(report(Result("b", 1.0), group="loading"))
    new = groups_of(report(Result("c", 1.0), group="loading"))
    assert [group["results"][0]["name"] for group in merged(old, new)] == ["a", "c"]


def test_figures_of_a_smoke_run_are_refused() -> None:
    with pytest.raises(ValueError, match="smoke"):
        groups_of(report(Result("a", 1.0), smoke=True))


def test_the_ratio_is_the_median_of_paired_ratios_not_the_ratio_of_medians() -> None:
    turns = Turns(ours_s=(1.0, 4.0, 9.0), theirs_s=(1.0, 2.0, 3.0))
    assert (turns.ratio, turns.quartiles) == (2.0, (1.5, 2.5))
    assert Turns((1.0,), (2.0,)).quartiles == (0.5, 0.5)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (6.4, "s", "6.4 s"),
        (0.169, "s", "169 ms"),
        (0.000258, "s", "258 us"),
        (-0.5, "s", "-500 ms"),
        (126e9, "FLOP/s", "126 GFLOP/s"),
        (6.3e8, "B", "601 MiB"),
        (786432, "", "786432"),
        (0.923, "", "0.923"),
    ],
)
def test_quantities_are_given_at_the_scale_that_suits_them(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_no_figure_of_speed_stands_outside_the_marks() -> None:
    by_hand = PAGE.read_text("utf-8").partition(BEGIN)[0]
    assert not re.search(r"\d (s|ms|us|GFLOP/s)\b", by_hand)
