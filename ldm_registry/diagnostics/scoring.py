"""Cells of the verdict's benchmark as tasks that do not depend on one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ldm_registry.diagnostics.benchmark import Cell, Refused, Score, score
from ldm_registry.engines.outcome import Engine
from ldm_registry.matrix import Failed, failure, outcomes
from ldm_registry.spec import PipelineSpec


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell that has not been scored.

    Attributes:
        place: Among all cells.
        healthy: The spec to compare with.
        cell: The other.
    """

    place: int
    healthy: PipelineSpec
    cell: Cell


def scoring(
    tasks: Iterable[Planned], specs: Sequence[PipelineSpec], workers: Engine, *, quick: bool
) -> Iterator[tuple[int, Score | Refused | Failed]]:
    """Score cells.

    Args:
        tasks: Pulled as there is somebody to do them.
        specs: The healthy ones that they are about.
        workers: Who does it.
        quick: As for `diagnose`.

    Yields:
        What came of every cell with its place, as soon as it is known; a cell whose diagnosis fails is `Failed`.

    Raises:
        SpecError: As `matrix.outcomes`.
    """
    for outcome in outcomes(workers, partial(_scored, quick=quick), tasks, specs):
        planned = outcome.task
        found = failure(planned.cell.key, outcome) if outcome.result is None else outcome.result
        yield planned.place, found


def _scored(planned: Planned, *, quick: bool) -> Score | Refused:
    return score(planned.healthy, planned.cell, quick=quick)
