"""One pipeline against several others, a line each: as a table, as JSON, and as files beside the full reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_registry.diagnostics.crossing import Agreement, Crossing, place_in_words
from ldm_registry.diagnostics.report import stages_name
from ldm_registry.matrix import Failed, exit_code, failures_in_words
from ldm_registry.report.against import headline
from ldm_registry.report.against_several import PAGE, RECORD, Crossed, Row
from ldm_registry.report.html.against_index import render_index
from ldm_registry.report.tables import number, table

WORDS = {
    Agreement.EQUAL: "bit-equal",
    Agreement.ROUNDING: "rounding",
    Agreement.SEVERAL: "several stages",
    Agreement.UNKNOWN: "not comparable",
}
HEADS = ("second", "who differs", "share", "difference", "better", "parts first at")
NUMBERS = (2, 3)


def to_document(first: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The report as a JSON document.

    Args:
        first: Name of the first spec.
        rows: In order; one that failed has its error in place of a verdict.
    """
    from ldm_registry import __version__

    return {
        "first": first,
        "rows": [_document(row) for row in rows],
        "differing": len(_differing(rows)),
        "failed": len(_failed(rows)),
        "version": __version__,
    }


def render(first: str, rows: Sequence[Row]) -> str:
    """The report as text: a line for each, and why some failed.

    Args:
        first: Name of the first spec.
        rows: In order.
    """
    lines = table(HEADS, [cells(row) for row in rows], right=NUMBERS)
    return "\n\n".join(filter(None, [f"{summary(first, rows)}\n\n{lines}", failures_in_words(_failed(rows))]))


def write(folder: Path, first: str, rows: Sequence[Row], document: Mapping[str, Any]) -> Path:
    """Write the table beside the full reports.

    Args:
        folder: Made when it is missing.
        first: Name of the first spec.
        rows: In order.
        document: What `to_document` returned.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    links = [f"{row.report}.html" if isinstance(row, Crossed) and row.report else None for row in rows]
    errors = {place: row.to_text() for place, row in enumerate(rows) if isinstance(row, Failed)}
    page = render_index(summary(first, rows), HEADS, [cells(row) for row in rows], NUMBERS, links, errors)
    (folder / PAGE).write_text(page, encoding="utf-8", newline="\n")
    return folder / PAGE


def summary(first: str, rows: Sequence[Row]) -> str:
    """The report in one sentence.

    Args:
        first: Name of the first spec.
        rows: In order.
    """
    differing, failed = len(_differing(rows)), len(_failed(rows))
    said = f"{first} against {len(rows)} other{'s' * (len(rows) != 1)}: {differing} differ"
    return f"{said}, {failed} failed" if failed else said


def ends_with(rows: Sequence[Row]) -> int:
    """The exit code: 0 where all agree up to rounding, 1 where some differ or failed; where all failed, as they say.

    Args:
        rows: Of the report.
    """
    return exit_code(_failed(rows), len(rows)) or int(bool(_differing(rows)))


def cells(row: Row) -> tuple[str, ...]:
    """What stands in one line of the table.

    Args:
        row: Compared, or failed.
    """
    if isinstance(row, Failed):
        return (row.name, "failed", "-", "-", "", "")
    found = row.found
    place = place_in_words(found.first, brief=True) if found.first else ""
    return (
        row.name,
        WORDS.get(found.agreement) or stages_name(found.stages),
        f"{found.confidence:.0%}" if found.exit_code else "-",
        number(found.difference, 2),
        "" if found.better is None or not found.exit_code else found.names[found.better],
        f"{found.first.stage}{f': {place}' if place else ''}" if found.first else "",
    )


def line(row: Row) -> str:
    """A row that has just been done.

    Args:
        row: Compared, or failed.
    """
    return f"{row.name}: {row.error if isinstance(row, Failed) else headline(row.found)}"


def _document(row: Row) -> dict[str, Any]:
    if isinstance(row, Failed):
        return {"second": row.name, **row.to_document()}
    document = row.found.to_document()
    own = ("verdict", "shares", "stage", "notes", "seed", "images", "known_images", "quick", "seconds")
    page = {"report": row.report and f"{row.report}.html"}
    return {"second": row.name, "says": headline(row.found), **{name: document[name] for name in own}, **page}


def _differing(rows: Sequence[Row]) -> list[Crossing]:
    return [row.found for row in rows if isinstance(row, Crossed) and row.found.exit_code]


def _failed(rows: Sequence[Row]) -> list[Failed]:
    return [row for row in rows if isinstance(row, Failed)]
