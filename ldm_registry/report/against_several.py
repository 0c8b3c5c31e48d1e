"""One pipeline against several others: a row for each, and beside them the full report of every pair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldm_registry.assembly import assemble
from ldm_registry.diagnostics.against import diagnose_against
from ldm_registry.diagnostics.crossing import Crossing
from ldm_registry.engines.outcome import Engine
from ldm_registry.errors import SpecError
from ldm_registry.matrix import Failed, failure, outcomes
from ldm_registry.report.html.against_page import write_page
from ldm_registry.report.html.provenance import provenance_of
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import Kind

RECORD, PAGE = "against.json", "index.html"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two specs to compare.

    Attributes:
        name: Of the row.
        one: The first; the same in every row.
        other: The second.
        stage: The only stage to look at; None for all.
        quick: Make fewer images.
        report: Name of its full report, without suffix; None where none is written.
    """

    name: str
    one: PipelineSpec
    other: PipelineSpec
    stage: Kind | None = None
    quick: bool = False
    report: str | None = None


@dataclass(frozen=True, slots=True)
class Crossed:
    """Two specs compared.

    Attributes:
        name: Of the row.
        found: What came of it; with pictures where a report is to be written.
        provenance: Of the two pipelines, as for `write_page`.
        report: As `Pair.report`.
    """

    name: str
    found: Crossing
    provenance: tuple[Mapping[str, str], Mapping[str, str]]
    report: str | None


Row = Crossed | Failed


def compare(pairs: Sequence[Pair | Failed], workers: Engine) -> Iterator[tuple[int, Row]]:
    """Compare every pair.

    Args:
        pairs: In the order of the report.
        workers: Who does it.

    Yields:
        Every row with its place, as soon as it is known.

    Raises:
        SpecError: As `matrix.outcomes`.
    """
    yield from ((place, one) for place, one in enumerate(pairs) if isinstance(one, Failed))
    places = [place for place, one in enumerate(pairs) if isinstance(one, Pair)]
    tasks = [one for one in pairs if isinstance(one, Pair)]
    specs = [spec for one in tasks for spec in (one.one, one.other)]
    for outcome in outcomes(workers, crossed, tasks, specs):
        row = failure(outcome.task.name, outcome) if outcome.result is None else outcome.result
        yield places[outcome.index], row


def crossed(pair: Pair) -> Crossed:
    """Compare one pair.

    Args:
        pair: Of specs.

    Raises:
        LdmError: One of them cannot be assembled, or the known images do not fit the first.
    """
    one, other = assemble(pair.one), assemble(pair.other)
    found = diagnose_against(one, other, stage=pair.stage, quick=pair.quick)
    if pair.report is None:
        found = replace(found, pictures=())
    return Crossed(pair.name, found, (provenance_of(one), provenance_of(other)), pair.report)


def claim(folder: Path, *, overwrite: bool) -> None:
    """Refuse early a folder that the reports are not to be written into.

    Args:
        folder: May be missing, or hold earlier reports.
        overwrite: May hold other things too.

    Raises:
        SpecError: The folder holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; a report for each spec is written into a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file() and not overwrite:
        raise SpecError(
            f"{folder} is not empty and holds no earlier reports", hint="name another, or add --overwrite"
        )


def file_names(names: Sequence[str]) -> list[str]:
    """A name for the reports of each row, without suffix; no two are the same, nor that of the table.

    Args:
        names: Of the rows; some may be the same.
    """
    taken = {Path(RECORD).stem, Path(PAGE).stem}
    found = []
    for name in names:
        count, own = 1, name
        while own.casefold() in taken:
            count += 1
            own = f"{name}-{count}"
        taken.add(own.casefold())
        found.append(own)
    return found


def write_report(folder: Path, row: Crossed) -> Crossed:
    """Write the full report of one pair, `NAME.html` and `NAME.json`, if it is to have one.

    Args:
        folder: Made when it is missing; earlier reports of that name are replaced.
        row: What to write.

    Returns:
        The row without its pictures.
    """
    if row.report is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_page(row.found, folder / f"{row.report}.html", row.provenance)
        text = json.dumps(row.found.to_document(), indent=2, allow_nan=False)
        (folder / f"{row.report}.json").write_text(text + "\n", encoding="utf-8")
    return replace(row, found=replace(row.found, pictures=()))
