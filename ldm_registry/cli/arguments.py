"""Arguments that several commands share, and the spec that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm_registry.vocabulary import STAGES

if TYPE_CHECKING:
    from ldm_registry.spec import PipelineSpec

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a bundled spec.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, also for an error.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of image 0, image i has seed + i; default: the spec's.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Of every stage, such as cpu or cuda; default: as the spec says."),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--condition",
        metavar="NAME=VALUE",
        help="In place of the spec's, such as `prompt=a red kite`; a name that comes twice has two values.",
    ),
]
Images = Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many images.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write to.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write even where something else lies already.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ENGINE",
        help="`ray` does the work on workers of a Ray cluster; default: this process.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Of the head of a Ray cluster, or `auto`; default: RAY_ADDRESS, else a Ray on this machine.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="On Ray; default: one for each GPU, or for each core."),
]


def resolve(
    source: str,
    *,
    seed: int | None = None,
    device: str | None = None,
    conditions: Sequence[str] | None = None,
) -> PipelineSpec:
    """The spec that a command line names, with what its options change.

    Args:
        source: File or bundled name.
        seed: In place of the spec's.
        device: In place of every stage's.
        conditions: `NAME=VALUE`, in place of the spec's of that name.

    Raises:
        LdmError: As `load_spec`.
    """
    from ldm_registry.spec import load_spec, swap

    spec = load_spec(source)
    changes: dict[str, Any] = {}
    if device is not None:
        changes = {f"{stage}_device": device for stage in STAGES}
        changes["conditioners"] = {label: {"device": device} for label in spec.conditioners}
    if conditions:
        changes["condition"] = _conditions(conditions)
    if seed is not None:
        changes["seed"] = seed
    return swap(spec, **changes) if changes else spec


def _conditions(words: Sequence[str]) -> dict[str, list[int] | list[str]]:
    """`NAME=VALUE` words by name; values that are all whole numbers are numbers."""
    from ldm_registry.errors import SpecError

    given: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SpecError(f"cannot read the condition {word!r}: expected NAME=VALUE")
        given.setdefault(name, []).append(value)
    return {
        name: [int(value) for value in values]
        if all(re.fullmatch("-?[0-9]{1,18}", value) for value in values)
        else values
        for name, values in given.items()
    }
