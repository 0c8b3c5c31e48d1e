"""The command that says which part is to blame: diagnose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Address, Device, Json, On, Overwrite, Spec, Workers, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.cli.progress import Line
from ldm_registry.cli.spec_rows import read_specs
from ldm_registry.engines.opening import engine, runs_on_ray
from ldm_registry.vocabulary import STAGES, DType, Kind

if TYPE_CHECKING:
    from ldm_registry.diagnostics import Report
    from ldm_registry.engines import Engine
    from ldm_registry.interfaces import Component
    from ldm_registry.pipeline import Pipeline
    from ldm_registry.spec import PipelineSpec


def diagnose(
    spec: Spec,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="encoder|denoiser|scheduler|decoder|SPEC",
            help="Look at one stage by itself; more specs for --against.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="SPEC [SPEC]...",
            help="Cross its stages with those of a second spec; exit code 1 where the two differ. With several, a row "
            "for each.",
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
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Also write the report as one HTML page; against several, a folder with a page for each.",
        ),
    ] = None,
    on: On = None,
    address: Address = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Say which part of a pipeline is at fault, with evidence; exit code 1 where one is.

    Measures every stage by itself and all subsets replaced by something that is right. Without a stage, or for one.
    With a second spec: which stage carries the difference of the two, and where their runs part. With several, or with
    --on ray, a row for each, also for one that fails.
    """
    only, others = _told(words, against)
    if features is not None and (only or others):
        _refuse_features(only)
    if _is_matrix(others, on, address, workers):
        return _against_several(
            [spec, *others],
            only,
            output,
            partial(engine, on, address=address, workers=workers),
            seed=seed,
            device=device,
            dtype=dtype,
            quick=quick,
            overwrite=overwrite,
        )
    specs = [resolve(one, seed=seed, device=device) for one in (spec, *others)]
    if output is not None:
        _claim(output, overwrite=overwrite)
    from ldm_registry.assembly import assemble, load_component
    from ldm_registry.report.diagnosis import render

    pipe, *seconds = [assemble(_in_type(one, dtype)) for one in specs]
    if seconds:
        return _against(pipe, seconds[0], only, output, quick=quick)
    network = None if features is None else load_component(Kind.ENCODER, features)
    report = _drained(pipe, only, network, quick=quick)
    if output is not None:
        from ldm_registry.report.html import provenance_of, write_page

        write_page(report, output, provenance_of(pipe))
    return Result(report.to_document(), render(report), report.exit_code)


def _told(words: Sequence[str] | None, against: Sequence[str] | None) -> tuple[Kind | None, list[str]]:
    """The stage that a command line names, and the specs to compare with: those of the option first."""
    stages = [word for word in words or () if word in STAGES]
    others = [word for word in words or () if word not in STAGES]
    if others and (not against or _is_misspelt(others[0])):
        from ldm_registry.errors import SpecError, did_you_mean

        raise SpecError(
            f"there is no stage {others[0]!r}", hint=did_you_mean(others[0], [kind.value for kind in STAGES])
        )
    if len(stages) > 1:
        from ldm_registry.errors import SpecError

        raise SpecError(f"{' and '.join(stages)} are given; one stage can be looked at by itself, or all")
    return Kind(stages[0]) if stages else None, [*(against or ()), *others]


def _is_misspelt(word: str) -> bool:
    """Whether this is rather a stage than a spec."""
    return (
        bool(get_close_matches(word, [kind.value for kind in STAGES], cutoff=0.6)) and not Path(word).exists()
    )


def _is_matrix(others: Sequence[str], on: str | None, address: str | None, workers: int | None) -> bool:
    """Whether rows are asked for, and not the report of one pair.

    Raises:
        SpecError: Something is to be done on Ray, and it is no matrix; or as `runs_on_ray`.
    """
    is_on_ray = runs_on_ray(on, address=address, workers=workers)
    if is_on_ray and not others:
        from ldm_registry.errors import SpecError

        raise SpecError(
            "the diagnosis of one pipeline is one task",
            hint="leave --on out, or add --against with other specs",
        )
    return is_on_ray or len(others) > 1


def _in_type(spec: PipelineSpec, dtype: DType | None) -> PipelineSpec:
    """The spec with one floating-point type for every stage."""
    from ldm_registry.spec import swap

    return spec if dtype is None else swap(spec, **{f"{kind}_dtype": dtype.value for kind in STAGES})


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


def _against_several(
    sources: Sequence[str],
    only: Kind | None,
    output: Path | None,
    workers: Callable[[], AbstractContextManager[Engine]],
    *,
    seed: int | None,
    device: str | None,
    dtype: DType | None,
    quick: bool,
    overwrite: bool,
) -> Result:
    """The first spec against all others, with progress on stderr."""
    first = _in_type(resolve(sources[0], seed=seed, device=device), dtype)
    from ldm_registry.matrix import Failed
    from ldm_registry.report.against_rows import ends_with, line, render, to_document, write
    from ldm_registry.report.against_several import Pair, claim, compare, file_names, write_report

    if output is not None:
        claim(output, overwrite=overwrite)
    read = read_specs(sources[1:], seed=seed, device=device)
    names = file_names([one.name if isinstance(one, Failed) else one[0] for one in read])
    pairs = [
        one
        if isinstance(one, Failed)
        else Pair(one[0], first, _in_type(one[1], dtype), only, quick, name if output else None)
        for one, name in zip(read, names, strict=True)
    ]
    rows = {}
    with workers() as done_by:
        for place, row in compare(pairs, done_by):
            print(line(row), file=sys.stderr)
            rows[place] = row if isinstance(row, Failed) or output is None else write_report(output, row)
    ordered = [rows[place] for place in range(len(pairs))]
    name = Path(sources[0]).stem
    document, text = to_document(name, ordered), render(name, ordered)
    if output is not None:
        text += f"\n\nreports: {write(output, name, ordered, document)}"
    return Result(document, text, ends_with(ordered))


COMMANDS = (diagnose,)
