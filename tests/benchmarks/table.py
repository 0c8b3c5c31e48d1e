"""The table of benchmarks as text and as Markdown, from results in memory or from pytest-benchmark's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from result import HEADINGS, Result

Results = Mapping[str, Sequence[Result]]
"""By group, in the order in which they were found."""


def stored_results(report: Mapping[str, Any]) -> dict[str, list[Result]]:
    """The results in what pytest-benchmark's `--benchmark-json` wrote."""
    found: dict[str, list[Result]] = {}
    for case in report["benchmarks"]:
        lines = [Result.load(line) for line in case["extra_info"].get("results", ())]
        found.setdefault(case["group"], []).extend(lines)
    return found


def as_text(results: Results) -> Iterator[str]:
    """Lines for a terminal, columns aligned, without those columns that are empty throughout."""
    lines = [result.cells() for group in results.values() for result in group]
    kept = [column for column, cells in enumerate(zip(HEADINGS, *lines, strict=True)) if any(cells[1:])]
    widths = {column: max(len(row[column]) for row in (HEADINGS, *lines)) for column in kept}

    def aligned(row: Sequence[str]) -> str:
        return "  ".join(row[column].ljust(widths[column]) for column in kept).rstrip()

    yield aligned(HEADINGS)
    for name, group in results.items():
        yield f"- {name}"
        yield from (aligned(result.cells()) for result in group)


def as_markdown(results: Results) -> Iterator[str]:
    """A section with its table for each group."""
    for name, group in results.items():
        lines = [result.cells() for result in group]
        kept = [column for column, cells in enumerate(zip(HEADINGS, *lines, strict=True)) if any(cells[1:])]
        yield f"### {name.capitalize()}"
        yield ""
        yield _row(HEADINGS[column] for column in kept)
        yield _row("---" if column in TEXTS else "---:" for column in kept)
        yield from (_row(line[column] for column in kept) for line in lines)
        yield ""


TEXTS = {HEADINGS.index(heading) for heading in ("case", "goal", "note")}


def _row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"
