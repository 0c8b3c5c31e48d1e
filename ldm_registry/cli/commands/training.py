"""`ldm train`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Device, Json, Spec, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.cli.progress import Line

if TYPE_CHECKING:
    from ldm_registry.training.progress import Progress


class Trainable(StrEnum):
    """What can be trained."""

    ENCODER = "encoder"
    DENOISER = "denoiser"


def train(
    stage: Annotated[Trainable, typer.Argument(help="encoder trains the whole codec.")],
    spec: Spec,
    device: Device = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Checkpoint folder; default: the spec's."),
    ] = None,
    afresh: Annotated[bool, typer.Option("--afresh", help="Do not go on from an earlier state.")] = False,
    json: Json = False,
) -> Result | None:
    """Train a codec or a denoiser on the images of a spec. Stop it at any time; the next call goes on.

    `torchrun -m ldm_registry train ...` and `accelerate launch` train a denoiser in several processes.
    """
    from ldm_registry.report.training_log import describe, line, summary
    from ldm_registry.training import train as training
    from ldm_registry.training.processes import is_first_process

    shown, speaks = Line(), is_first_process()
    last: Progress | None = None
    for last in training(stage.value, resolve(spec), device=device, output=output, resume=not afresh):
        if not speaks:
            continue
        shown.say(line(last), now=bool(last.validation))
        if last.validation:
            print(file=sys.stderr)
    shown.end()
    return Result(describe(last), summary(last)) if speaks else None


COMMANDS = (train,)
