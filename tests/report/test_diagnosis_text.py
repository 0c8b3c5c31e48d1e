from __future__ import annotations

import re
from dataclasses import replace

import pytest
from report.example_report import SCHEDULER, costs, example, measurements, substitution, verdict

from ldm_registry.diagnostics.evidence import Healthy, Metric, Suspicion
from ldm_registry.diagnostics.report import Candidate, Outcome, Report
from ldm_registry.report.diagnosis import render

LONG = "noise of a standard deviation that is far too large is left in the state " * 2
PLAIN = measurements("plain")[2]
FINE = [
    replace(PLAIN, code=f"T{index}", metrics=(Metric("a", 1.0, "", Healthy(0.0, 2.0, "")),))
    for index in range(16)
]
BAD = [
    replace(PLAIN, code=f"B{index}", suspicions=(Suspicion(SCHEDULER, LONG, 0.9, LONG),))
    for index in range(3)
]
EVIDENCE = ("scheduler: it clips; values change by 2", *(f"scheduler: {LONG}" for _ in range(8)))


def report(outcome: Outcome) -> Report:
    """As long as a report gets."""
    said = replace(
        verdict("text", outcome),
        stages=SCHEDULER,
        fault="it clips",
        evidence=EVIDENCE,
        agreement=False,
        deciding=LONG if outcome is Outcome.UNDECIDED else None,
        candidates=(Candidate(SCHEDULER, 0.6), Candidate(frozenset(), 0.4)),
    )
    tests = (*FINE, *BAD) if outcome in {Outcome.FAULT, Outcome.UNDECIDED} else (*FINE,)
    if outcome is not Outcome.HEALTHY:
        return example("some words", verdict=said, measurements=tests, warnings=())
    said = replace(said, evidence=EVIDENCE[:1], agreement=None)
    nothing = replace(substitution("some words"), noticeable=100.0)
    return example("some words", verdict=said, measurements=tests, warnings=(), substitution=nothing)


@pytest.mark.parametrize("outcome", [Outcome.HEALTHY, Outcome.FAULT, Outcome.UNDECIDED])
def test_a_report_fits_on_one_screen(outcome: Outcome) -> None:
    lines = render(report(outcome), 100).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, render(report(Outcome.FAULT)).splitlines())) <= width


def test_the_fault_is_said_once_and_with_its_evidence() -> None:
    text = render(report(Outcome.FAULT), 100)
    assert text.count("it clips") == 1
    assert "\n  it clips: values change by 2\n" in text


def test_where_something_is_wrong_what_is_right_takes_one_line() -> None:
    text = render(report(Outcome.FAULT), 100)
    assert f"\nok: {', '.join(one.code for one in FINE)}\n" in text
    assert len(re.findall("^B[0-9] +WRONG ", text, re.MULTILINE)) == 3


def test_where_all_is_well_every_test_shows_numbers_beside_their_range() -> None:
    text = render(report(Outcome.HEALTHY), 100)
    assert len(re.findall(r"^T[0-9]+ +ok +a 1 \(0 to 2\)", text, re.MULTILINE)) == 16


def test_the_costs_name_the_clock_every_stage_and_the_highest_peak() -> None:
    text = " ".join(render(example("device events"), 120).split())
    assert (
        "4 images at once (device events): encoder 10 ms, denoiser 20 ms, scheduler 30 ms, decoder 40 ms"
        in text
    )
    assert "peak 1,234 MiB in the denoiser" in text
    document = example("device events").to_document()["costs"]
    assert document["stages"]["scheduler"]["peak_mib"] is None
    assert document["stages"]["denoiser"]["ms"] == costs("").stages[1].ms
