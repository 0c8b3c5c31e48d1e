"""The command that says what the parts of a pipeline cost: bench."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Device, Json, Overwrite, Spec, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.cli.progress import Line
from ldm_registry.vocabulary import STAGES, DType

if TYPE_CHECKING:
    from ldm_registry.costs.result import Bench
    from ldm_registry.pipeline import Pipeline


def bench(
    spec: Spec,
    batch: Annotated[int, typer.Option("--batch", min=1, max=100_000, help="Images at once.")] = 1,
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes",
            metavar="PX,PX,...",
            help="Image sizes to measure growth over, such as 64,128 or 64x96; default: half, once and twice the "
            "spec's.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Take about a third of the time.")] = False,
    device: Device = None,
    dtype: Annotated[
        DType | None, typer.Option("--dtype", help="Of every stage; default: as the spec says.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of all noise; default: the spec's.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.svg", help="Also draw the figures as one SVG picture."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Say what each part costs: time, memory, work, how close to the machine's best, and how it grows.

    Every part is measured by itself and in whole runs; the best rates of matrix products, convolutions and copies are
    measured beside it, on the same device and in the same type.
    """
    wanted = None if sizes is None else _sizes(sizes)
    if plot is not None:
        _claim(plot, overwrite=overwrite)
    resolved = resolve(spec, seed=seed, device=device)
    from ldm_registry.assembly import assemble
    from ldm_registry.report.bench import render, to_document
    from ldm_registry.spec import swap

    if dtype is not None:
        resolved = swap(resolved, **{f"{stage}_dtype": dtype.value for stage in STAGES})
    found = _drained(assemble(resolved), batch, wanted, quick=quick)
    text = render(found)
    if plot is not None:
        from ldm_registry.report.html.bench_plot import write_plot

        write_plot(found, plot)
        text += f"\n\npicture: {plot}"
    return Result({**to_document(found), "plot": str(plot) if plot else None}, text)


def _sizes(words: str) -> list[tuple[int, int]]:
    """`64,64x96` as (height, width) pairs."""
    found = []
    for word in words.split(","):
        match = re.fullmatch(r"\s*([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?\s*", word)
        if match is None:
            from ldm_registry.errors import SpecError

            raise SpecError(
                f"--sizes has {word!r}", hint="sizes are pixels, joined by commas: 64,128 or 64x96,128"
            )
        found.append((int(match[1]), int(match[2] or match[1])))
    return found


def _claim(path: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written in the end."""
    from ldm_registry.errors import NotFoundError, SpecError

    if path.suffix.lower() != ".svg":
        raise SpecError(f"the picture is an SVG; {path.name} is called otherwise", hint="name it FILE.svg")
    if not path.parent.is_dir():
        raise NotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if path.is_dir() or (path.exists() and not overwrite):
        raise SpecError(f"{path} exists already", hint="name another file, or add --overwrite")


def _drained(pipe: Pipeline, batch: int, sizes: list[tuple[int, int]] | None, *, quick: bool) -> Bench:
    """The figures at the end, with progress on stderr."""
    from ldm_registry.costs.bench import Begun, benching
    from ldm_registry.costs.series import QUICK, THOROUGH

    line = Line()
    try:
        for event in benching(pipe, batch=batch, sizes=sizes, effort=QUICK if quick else THOROUGH):
            if not isinstance(event, Begun):
                return event
            line.say(f"{event.index + 1} of {event.count}: {event.about}")
    finally:
        line.end()
    raise AssertionError("a bench ends with its figures")


COMMANDS = (bench,)
