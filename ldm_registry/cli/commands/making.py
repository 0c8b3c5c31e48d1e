"""Commands that make something of a spec: run, trace, compare, swap."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm_registry.cli.arguments import (
    Address,
    Conditions,
    Device,
    Images,
    Json,
    On,
    Output,
    Overwrite,
    Seed,
    Spec,
    Workers,
    resolve,
)
from ldm_registry.cli.outcome import INTERRUPTED_EXIT_CODE, Result
from ldm_registry.cli.progress import Line, shown
from ldm_registry.cli.spec_rows import read_specs
from ldm_registry.engines.opening import engine, runs_on_ray

if TYPE_CHECKING:
    from ldm_registry.report.repetition import Plan

Count = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--n",
        min=1,
        max=1_000_000_000,
        help="How many images; default: 16, rounded up so that each value of the condition comes up equally often.",
    ),
]
MOST_FILES = 256
"""Images that `run` writes as files of their own, unless it is told otherwise: a grid of more shows nothing."""


def run(
    spec: Spec,
    output: Output,
    n: Count = None,
    seed: Seed = None,
    device: Device = None,
    condition: Conditions = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", min=1, help="Images at once; default: all, for shards as many as are worth while."
        ),
    ] = None,
    shards: Annotated[
        bool | None,
        typer.Option(
            "--shards/--no-shards",
            help="Write WebDataset shards, in a run that goes on where it stopped; default: above "
            f"{MOST_FILES} images.",
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option("--shard-size", min=1, help="Images in a shard; default: for about 32 shards."),
    ] = None,
    on: On = None,
    address: Address = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Make images: a file for each, a grid, and a record from which the run repeats to the bit.

    More than a few are streamed to WebDataset shards. Such a run may be stopped at any time: the same command goes on.
    With `--on ray` workers on all nodes of a Ray cluster make the same shards.

    SPEC may also be the run.json of an earlier run: it is repeated, and exit code 1 says that a pixel differs.
    """
    on_ray = runs_on_ray(on, address=address, workers=workers)
    from ldm_registry.report.repetition import Plan, carry_out, repeat, usual_n
    from ldm_registry.report.run_record import RECORD, claim_folder, summary

    if Path(spec).name == RECORD:
        _to_shards(0, shards or on_ray or None, shard_size, of_record=True)
        plan = repeat(Path(spec))
    else:
        resolved = resolve(spec, seed=seed, device=device, conditions=condition)
        plan = Plan(resolved, n or usual_n(resolved), batch)
        if _to_shards(plan.n, shards, shard_size, on_ray=on_ray):
            where = {"on": on, "address": address, "workers": workers}
            return _streamed(plan, output, shard_size, where if on_ray else {}, overwrite=overwrite)
    claim_folder(output, overwrite=overwrite)
    document, differing = carry_out(plan, output, shown)
    compared = {"repeats": plan.earlier is not None, "differing": differing}
    return Result(
        {**document, **compared}, summary(document, output, plan.earlier, differing), int(bool(differing))
    )


def _to_shards(
    n: int, shards: bool | None, shard_size: int | None, *, of_record: bool = False, on_ray: bool = False
) -> bool:
    """Whether a run is written as shards, as its options say or its size suggests; on Ray it always is.

    Raises:
        SpecError: The options contradict one another, or what is to be repeated.
    """
    wanted = shards or shard_size is not None or on_ray
    if wanted and (of_record or shards is False):
        from ldm_registry.errors import SpecError

        reason = "a run.json is repeated as files" if of_record else "--no-shards asks for files"
        raise SpecError(
            f"{reason}, and --shards, --shard-size or --on ray for shards", hint="leave one of them out"
        )
    return wanted or (shards is None and n > MOST_FILES)


def _streamed(
    plan: Plan, output: Path, shard_size: int | None, where: dict[str, Any], *, overwrite: bool
) -> Result:
    """A run to shards, with progress on stderr; interrupted, it ends with the exit code of an interrupted command.

    Args:
        plan: What to make.
        output: Folder.
        shard_size: Images in a shard.
        where: Options of `stream` for workers elsewhere; empty for this process.
        overwrite: As the option.
    """
    from ldm_registry.assembly import assemble
    from ldm_registry.report.streamed import describe, line, summary
    from ldm_registry.streaming import stream
    from ldm_registry.streaming.elsewhere import template

    on_stderr = Line()
    pipe = template(plan.spec) if where else assemble(plan.spec)
    for warning in pipe.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    try:
        for progress in stream(
            pipe, plan.n, output, batch=plan.batch, shard_size=shard_size, overwrite=overwrite, **where
        ):
            for note in progress.notes:
                print(note, file=sys.stderr)
            on_stderr.say(line(progress))
    finally:
        on_stderr.end()
    is_whole = progress.whole == plan.n
    return Result(describe(progress), summary(progress), 0 if is_whole else INTERRUPTED_EXIT_CODE)


def trace(
    spec: Spec,
    n: Images = 1,
    seed: Seed = None,
    device: Device = None,
    condition: Conditions = None,
    json: Json = False,
) -> Result:
    """Make one batch of images and report every event on the way: noise level, sizes, times."""
    resolved = resolve(spec, seed=seed, device=device, conditions=condition)
    from ldm_registry.assembly import assemble
    from ldm_registry.report.timing import events
    from ldm_registry.report.trace import render, rows, to_document

    happened = list(rows(shown(events(assemble(resolved), n))))
    return Result(to_document(happened), render(happened))


def compare(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help="YAML files or names of bundled specs.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for the picture and the figures."),
    ] = None,
    n: Images = 6,
    seed: Seed = None,
    device: Device = None,
    on: On = None,
    address: Address = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Run specs on the same seeds, each in a process of its own: one picture, one table of what they cost.

    A spec that fails is a row with its error: exit code 1; 4 where a file was refused; where all fail, that of the
    first.
    """
    runs_on_ray(on, address=address, workers=workers)
    from ldm_registry.matrix import exit_code
    from ldm_registry.report.comparison import ask, claim, failed, to_document, write
    from ldm_registry.report.comparison import compare as comparing
    from ldm_registry.report.comparison_table import line, render

    asked = ask(read_specs(specs, device=device), n, seed)
    if output is not None:
        claim(output, overwrite=overwrite)
    rows = {}
    with engine(on, address=address, workers=workers) as done_by:
        for place, row in comparing(asked, done_by):
            print(line(row), file=sys.stderr)
            rows[place] = row
    ordered = [rows[place] for place in range(len(asked))]
    document = to_document(ordered)
    text = render(ordered)
    if output is not None and (shown := write(output, ordered, document)) is not None:
        text += f"\npicture: {shown}"
    return Result(document, text, exit_code(failed(ordered), len(ordered)))


def swap(
    spec: Spec,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="STAGE=NAME...", help="Also STAGE=NAME:CHECKPOINT, STAGE=CHECKPOINT, STAGE.KEY=VALUE."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="NEW.yaml", help="File to write; default: stdout."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Exchange parts of a spec, check that the new ones fit, and write the new spec."""
    resolved = resolve(spec)
    from ldm_registry.registry import Registry
    from ldm_registry.report.change import changed, write
    from ldm_registry.report.fit import describe_fit
    from ldm_registry.spec import dump_spec

    pipe = changed(resolved, changes, Registry.discover())
    for warning in pipe.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    text = dump_spec(pipe.spec, relative_to=Path.cwd())
    if output is not None:
        text = write(output, pipe.spec, overwrite=overwrite)
    document = {**describe_fit(pipe), "yaml": text, "file": str(output) if output else None}
    return Result(document, f"wrote {output}" if output else text.rstrip("\n"))


COMMANDS = (run, trace, compare, swap)
