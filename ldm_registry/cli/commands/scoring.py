"""The command that says how often a diagnosis is right: benchmark-verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm_registry.cli.arguments import Address, Json, On, Workers, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.cli.progress import Line
from ldm_registry.engines.opening import engine, runs_on_ray

if TYPE_CHECKING:
    from ldm_registry.diagnostics import benchmark
    from ldm_registry.engines import Engine
    from ldm_registry.matrix import Failed
    from ldm_registry.spec import PipelineSpec


def benchmark_verdict(
    spec: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC]...", help="Healthy specs; default: all bundled ones."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="NAME", help="Only this modifier; may come several times."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option("--strength", help="Of each fault; may come several times; default: 0.25, 0.5 and 1."),
    ] = None,
    controls: Annotated[
        bool, typer.Option(help="Also healthy pipelines: other seeds, fewer steps, other samplers.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Diagnose the quick way.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="JSON lines; a cell that it holds is not run again."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown tables, for documentation.")
    ] = False,
    on: On = None,
    address: Address = None,
    workers: Workers = None,
    json: Json = False,
) -> Result:
    """Put every installed fault into healthy specs and score the verdict: a confusion matrix.

    A cell whose diagnosis fails is a row with its error: exit code 1; 4 where a file was refused. It is tried again
    the next time.
    """
    runs_on_ray(on, address=address, workers=workers)
    from ldm_registry.diagnostics import benchmark
    from ldm_registry.matrix import Failed, exit_code
    from ldm_registry.report.verdict_benchmark import describe, render
    from ldm_registry.spec import bundled_specs

    specs = {Path(name).stem: resolve(name) for name in spec or sorted(bundled_specs())}
    strengths = strength or benchmark.STRENGTHS
    planned = list(benchmark.cells(list(specs.items()), fault, strengths, controls=controls))
    known = {one.key: one for one in (benchmark.stored(output) if output else [])}
    found: dict[int, benchmark.Score | benchmark.Refused | Failed] = {
        place: known[cell.key] for place, cell in enumerate(planned) if cell.key in known
    }
    if len(found) < len(planned):
        with engine(on, address=address, workers=workers) as done_by:
            for place, one in _scoring(planned, found, specs, done_by, quick=quick):
                found[place] = one
                if output and not isinstance(one, Failed):
                    benchmark.store(output, one)
    rows = [found[place] for place in range(len(planned))]
    scores = [one for one in rows if isinstance(one, benchmark.Score)]
    failed = [one for one in rows if isinstance(one, Failed)]
    refused = len(rows) - len(scores) - len(failed)
    return Result(
        describe(scores, refused, failed),
        render(scores, refused, failed, markdown=markdown),
        exit_code(failed, len(rows)),
    )


def _scoring(
    planned: Sequence[benchmark.Cell],
    found: Mapping[int, Any],
    specs: Mapping[str, PipelineSpec],
    workers: Engine,
    *,
    quick: bool,
) -> Iterator[tuple[int, benchmark.Score | benchmark.Refused | Failed]]:
    """The cells that are not found yet, with progress on stderr."""
    from ldm_registry.diagnostics.scoring import Planned, scoring

    line = Line()

    def handed_out() -> Iterator[Planned]:
        for place, cell in enumerate(planned):
            if place not in found:
                line.say(f"{place + 1} of {len(planned)}: {cell.key}", now=True)
                yield Planned(place, specs[cell.spec], cell)

    try:
        yield from scoring(handed_out(), list(specs.values()), workers, quick=quick)
    finally:
        line.end()


COMMANDS = (benchmark_verdict,)
