"""How often the verdict was right: the confusion matrix, and every case beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ldm_registry.diagnostics.benchmark import Score, confusion, rates, verdict_names
from ldm_registry.report.tables import number, table

_RATES = {
    "right": "right stage, where the images are visibly other ones",
    "undecided": "undecided",
    "wrong": "another stage, or none",
    "class_right": "right class of fault, where the stage is right",
    "false_alarms": "false alarms on healthy pipelines",
}


def describe(scores: Sequence[Score]) -> dict[str, Any]:
    """The scores as a JSON document."""
    return {
        "rates": rates(scores),
        "confusion": confusion(scores),
        "scores": [{**asdict(one), "visible": one.is_visible} for one in scores],
    }


def render(scores: Sequence[Score]) -> str:
    """The matrix, the rates, and the cases that were not right."""
    if not scores:
        return "nothing to score: no fault is installed, and no healthy control was asked for"
    columns, matrix = verdict_names(scores), confusion(scores)
    rows = [
        (truth, *(str(row.get(column, 0) or ".") for column in columns))
        for truth, row in sorted(matrix.items())
    ]
    found = rates(scores)
    shares = [
        (about, "-" if (share := found[name]) is None else f"{share:.1%}") for name, about in _RATES.items()
    ]
    blocks = [
        table(("truth \\ verdict", *columns), rows, right=range(1, len(columns) + 1)),
        table(("", "share"), shares, right=(1,)),
        _misses(scores),
    ]
    return "\n\n".join(block for block in blocks if block)


def _misses(scores: Sequence[Score]) -> str:
    missed = [one for one in scores if not one.is_right and (one.is_visible or one.truth == "healthy")]
    rows = [
        (
            one.key,
            one.truth,
            one.verdict,
            f"{one.confidence:.2f}",
            number(one.visible_psnr_db),
            one.fault or "-",
        )
        for one in missed
    ]
    header = ("not right", "truth", "verdict", "confidence", "same as healthy [dB]", "what it says")
    return table(header, rows, right=(3, 4)) if rows else ""
