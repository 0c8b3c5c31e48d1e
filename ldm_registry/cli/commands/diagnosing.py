"""Commands that say which part is to blame: diagnose, benchmark-verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Device, Json, Overwrite, Spec, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.cli.progress import Line
from ldm_registry.vocabulary import STAGES, DType, Kind

if TYPE_CHECKING:
    from ldm_registry.diagnostics import Report
    from ldm_registry.interfaces import Component
    from ldm_registry.pipeline import Pipeline


def diagnose(
    spec: Spec,
    stage: Annotated[
        str | None,
        typer.Argument(metavar="[encoder|denoiser|scheduler|decoder]", help="Look at one stage by itself."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SPEC",
            help="Cross its stages with those of a second spec; exit code 1 where the two differ.",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="CHECKPOINT",
            help="Also compare samples by the pooled latents of this encoder: its folder.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Take about a fifth of the time.")] = False,
    device: Device = None,
    dtype: Annotated[
        DType | None, typer.Option("--dtype", help="Of every stage; default: as the spec says.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of all noise; default: the spec's.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Also write the report as one HTML page."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Say which part of a pipeline is at fault, with evidence; exit code 1 where one is.

    Measures every stage by itself and all subsets replaced by something that is right. Without a stage, or for one.
    With a second spec: which stage carries the difference of the two, and where their runs part.
    """
    only = _stage(stage)
    if features is not None and (only or against):
        _refuse_features(only)
    specs = [resolve(one, seed=seed, device=device) for one in (spec, against) if one is not None]
    if output is not None:
        _claim(output, overwrite=overwrite)
    from ldm_registry.assembly import assemble, load_component
    from ldm_registry.report.diagnosis import render
    from ldm_registry.spec import swap

    if dtype is not None:
        specs = [swap(one, **{f"{kind}_dtype": dtype.value for kind in STAGES}) for one in specs]
    pipe, *others = [assemble(one) for one in specs]
    if others:
        return _against(pipe, others[0], only, output, quick=quick)
    network = None if features is None else load_component(Kind.ENCODER, features)
    report = _drained(pipe, only, network, quick=quick)
    if output is not None:
        from ldm_registry.report.html import provenance_of, write_page

        write_page(report, output, provenance_of(pipe))
    return Result(report.to_document(), render(report), report.exit_code)


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
    json: Json = False,
) -> Result:
    """Put every installed fault into healthy specs and score the verdict: a confusion matrix."""
    from ldm_registry.diagnostics import benchmark
    from ldm_registry.report.verdict_benchmark import describe, render
    from ldm_registry.spec import bundled_specs

    named = [(Path(name).stem, resolve(name)) for name in spec or sorted(bundled_specs())]
    specs = dict(named)
    planned = list(benchmark.cells(named, fault, strength or benchmark.STRENGTHS, controls=controls))
    known = {one.key: one for one in (benchmark.stored(output) if output else [])}
    found = []
    line = Line()
    try:
        for index, cell in enumerate(planned):
            one = known.get(cell.key)
            if one is None:
                line.say(f"{index + 1} of {len(planned)}: {cell.key}", now=True)
                one = benchmark.score(specs[cell.spec], cell, quick=quick)
                if output:
                    benchmark.store(output, one)
            found.append(one)
    finally:
        line.end()
    scores = [one for one in found if isinstance(one, benchmark.Score)]
    refused = len(found) - len(scores)
    return Result(describe(scores, refused), render(scores, refused, markdown=markdown))


def _stage(word: str | None) -> Kind | None:
    if word is None:
        return None
    if word not in STAGES:
        from ldm_registry.errors import SpecError, did_you_mean

        raise SpecError(f"there is no stage {word!r}", hint=did_you_mean(word, list(STAGES)))
    return Kind(word)


def _claim(path: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written in the end."""
    from ldm_registry.errors import NotFoundError, SpecError

    if not path.parent.is_dir():
        raise NotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if path.is_dir() or (path.exists() and not overwrite):
        raise SpecError(f"{path} exists already", hint="name another file, or add --overwrite")


def _refuse_features(only: Kind | None) -> None:
    from ldm_registry.errors import SpecError

    beside = f"the {only} alone" if only else "--against"
    raise SpecError(
        f"--features compares samples of one whole pipeline; {beside} makes none to compare",
        hint="leave one of the two out",
    )


def _drained(pipe: Pipeline, only: Kind | None, features: Component | None, *, quick: bool) -> Report:
    """The report at the end of a diagnosis, whose beginnings are shown on stderr."""
    from ldm_registry.diagnostics import Begun, diagnosing
    from ldm_registry.interfaces import Encoder

    assert features is None or isinstance(features, Encoder)
    line = Line()
    try:
        for event in diagnosing(pipe, stage=only, quick=quick, features=features):
            if not isinstance(event, Begun):
                return event
            line.say(f"{event.index + 1} of {event.count}: {event.about}", now=True)
    finally:
        line.end()
    raise AssertionError("a diagnosis ends with its report")


def _against(
    one: Pipeline, other: Pipeline, only: Kind | None, output: Path | None, *, quick: bool
) -> Result:
    """Two pipelines compared, with progress on stderr."""
    from ldm_registry.diagnostics.against import diagnosing_against
    from ldm_registry.diagnostics.crossing import Crossing
    from ldm_registry.report.against import render

    line = Line()
    try:
        for event in diagnosing_against(one, other, stage=only, quick=quick):
            if isinstance(event, Crossing):
                break
            line.say(f"{event.index + 1} of {event.count}: {event.about}", now=True)
    finally:
        line.end()
    assert isinstance(event, Crossing)
    if output is not None:
        from ldm_registry.report.html.against_page import write_page
        from ldm_registry.report.html.provenance import provenance_of

        write_page(event, output, (provenance_of(one), provenance_of(other)))
    return Result(event.to_document(), render(event), event.exit_code)


COMMANDS = (diagnose, benchmark_verdict)
