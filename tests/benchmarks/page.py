"""Writes the figures of benchmark runs into docs/benchmarks.md: `python tests/benchmarks/page.py RUN.json...`.

What a run found replaces what docs/benchmarks.json has of the same groups; the rest stays.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from result import Result
from table import as_markdown, stored_results

DOCS = Path(__file__).parents[2] / "docs"
PAGE, STORED = DOCS / "benchmarks.md", DOCS / "benchmarks.json"
BEGIN, END = "<!-- figures: page.py writes what follows -->", "<!-- end of the figures -->"

Group = dict[str, Any]
"""`group`, `date`, `machine` and `results` of one group of cases, as docs/benchmarks.json has them."""


def groups_of(report: dict[str, Any]) -> list[Group]:
    """What docs/benchmarks.json keeps of a report of pytest-benchmark.

    Raises:
        ValueError: The report is of a run in smoke mode.
    """
    machine = dict(report["machine_info"]["ldm_registry"])
    if machine.pop("smoke"):
        raise ValueError("a run in smoke mode says nothing about speed")
    return [
        {
            "group": name,
            "date": report["datetime"][:10],
            "machine": machine,
            "results": [result.dump() for result in results],
        }
        for name, results in stored_results(report).items()
        if results
    ]


def merged(before: Sequence[Group], new: Sequence[Group]) -> list[Group]:
    """The old groups, each replaced by a new one of its name, then the rest of the new ones."""
    fresh = {group["group"]: group for group in new}
    kept = [fresh.pop(group["group"], group) for group in before]
    return [*kept, *fresh.values()]


def figures(groups: Sequence[Group]) -> Iterator[str]:
    """The lines between the two marks of the page."""
    machine: dict[str, Any] = {}
    for group in groups:
        if (group["machine"], group["date"]) != (machine, group["date"]):
            machine = group["machine"]
            yield ""
            yield f"{group['date']}: {described(machine)}"
            yield ""
        yield from as_markdown({group["group"]: [Result.load(line) for line in group["results"]]})
    missed = [
        result
        for group in groups
        for line in group["results"]
        if (result := Result.load(line)).reached is False
    ]
    yield "### Goals that were missed" if missed else "Every goal was met."
    yield ""
    for result in missed:
        name, ours, _, ratio, _, goal, share, _ = result.cells()
        at = f"at {share} of what the bare operations allow" if share else ""
        yield f"- {name}: {ratio or ours} {at} ({goal.partition(':')[0]})".replace("  ", " ")


def described(machine: dict[str, Any]) -> str:
    """One sentence about what the figures were measured on."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    where = ", ".join(machine["accelerators"].values())
    return (
        f"{where + ', ' if where else ''}{machine['processor']}, {machine['instructions']}, "
        f"{machine['threads']} threads on {machine['cores']} cores; Python {machine['python']}, {packages}."
    )


def renewed(page: str, groups: Sequence[Group]) -> str:
    """The page with the figures of these groups."""
    text = "\n".join([BEGIN, *figures(groups), END])
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: text, page, flags=re.DOTALL)


def main(paths: Sequence[str]) -> None:
    """Take the reports of some runs into the page."""
    groups = json.loads(STORED.read_text("utf-8")) if STORED.exists() else []
    for path in paths:
        groups = merged(groups, groups_of(json.loads(Path(path).read_text("utf-8"))))
    STORED.write_text(json.dumps(groups, indent=1) + "\n", "utf-8")
    PAGE.write_text(renewed(PAGE.read_text("utf-8"), groups), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
