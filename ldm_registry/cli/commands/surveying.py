"""The command that says what a set of many images is like: statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldm_registry.cli.arguments import Address, Json, On, Workers
from ldm_registry.cli.outcome import Result
from ldm_registry.cli.progress import Line
from ldm_registry.engines.opening import runs_on_ray
from ldm_registry.errors import DataError


def statistics(
    images: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", help="A folder of `ldm run --n`, any folder of tars, or one tar."),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="IMAGES",
            help="Another set: distances of the two, and where both are runs, of images of one index.",
        ),
    ] = None,
    on: On = None,
    address: Address = None,
    workers: Workers = None,
    json: Json = False,
) -> Result:
    """Count images by label, measure colours and features, and compare two sets, shard by shard.

    A shard that cannot be read is named and left out; exit code 4 says that there was one.
    """
    runs_on_ray(on, address=address, workers=workers)
    from ldm_registry.image_statistics import gathering
    from ldm_registry.report.image_statistics import render

    line = Line()
    try:
        for gathered in gathering(images, against, on=on, address=address, workers=workers):
            line.say(f"{gathered.done:,} of {gathered.shards:,} shards")
    finally:
        line.end()
    return Result(gathered.to_document(), render(gathered), DataError.exit_code if gathered.unread else 0)


COMMANDS = (statistics,)
