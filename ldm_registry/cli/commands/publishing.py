"""`ldm push` and `ldm plugin push`: checkpoints and plugins to the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Json
from ldm_registry.cli.outcome import Result
from ldm_registry.errors import SpecError

if TYPE_CHECKING:
    from ldm_registry.travel.plugin_push import PreparedPlugin
    from ldm_registry.travel.publishing import Published
    from ldm_registry.travel.push import Prepared

Repository = Annotated[str, typer.Argument(metavar="REPO", help="On the Hub, as org/name.")]
Private = Annotated[
    bool, typer.Option("--private", help="Only you and your organisation see it; a public one is refused.")
]
Licence = Annotated[
    str | None,
    typer.Option("--license", metavar="NAME", help="For the card, such as apache-2.0, where it states none."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, show the files, send nothing.")]
Copy = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="With --dry-run: write what would be published."),
]


def push(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder with a contract.json.")],
    repository: Repository,
    version: Annotated[
        str, typer.Option("--version", metavar="X.Y.Z", help="Becomes the tag vX.Y.Z, which never moves.")
    ] = "1.0.0",
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec", metavar="SPEC", help="Measure it, and make the pictures of the card, in this pipeline."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="TAR", help="Measure it with these images, not with the spec's."),
    ] = None,
    license_: Licence = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="REPO", help="What it was derived from, for the card."),
    ] = None,
    private: Private = False,
    dry_run: DryRun = False,
    output: Copy = None,
    json: Json = False,
) -> Result:
    """Publish a checkpoint: checked, measured again, scanned, one commit, a version that never changes."""
    from ldm_registry.hub import Hub
    from ldm_registry.spec import load_spec
    from ldm_registry.travel.push import prepare
    from ldm_registry.travel.push import push as send

    _require_dry(output, dry_run)
    hub = Hub.from_environment()
    _say(f"checking {checkpoint}")
    prepared = prepare(
        checkpoint,
        repository,
        version=version,
        spec=load_spec(spec) if spec else None,
        images=images,
        licence=license_,
        base_model=base_model,
        knows_secret=hub.knows_secret,
    )
    if not dry_run:
        _say(f"publishing {len(prepared.parcel.files)} files to {prepared.repository}")
    return _result(prepared, None if dry_run else send(prepared, hub, private=private), output)


def push_(
    project: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of the project; its code is run, to be tested.")
    ],
    repository: Repository,
    license_: Licence = None,
    private: Private = False,
    dry_run: DryRun = False,
    output: Copy = None,
    json: Json = False,
) -> Result:
    """Publish a plugin: tested, scanned, one commit, under the version of its pyproject.toml."""
    from ldm_registry.hub import Hub
    from ldm_registry.travel.plugin_push import prepare_plugin, push_plugin

    _require_dry(output, dry_run)
    hub = Hub.from_environment()
    _say(f"testing {project}")
    prepared = prepare_plugin(project, repository, licence=license_, knows_secret=hub.knows_secret)
    if not dry_run:
        _say(f"publishing {len(prepared.parcel.files)} files to {prepared.repository}")
    return _result(prepared, None if dry_run else push_plugin(prepared, hub, private=private), output)


def _result(prepared: Prepared | PreparedPlugin, published: Published | None, output: Path | None) -> Result:
    from ldm_registry.travel.publication_text import describe, render, write_copy

    if output is not None:
        write_copy(prepared, output)
    document = describe(prepared, published)
    return Result(document, render(document))


def _require_dry(output: Path | None, dry_run: bool) -> None:
    if output is not None and not dry_run:
        raise SpecError("--output goes with --dry-run alone", hint="what was published can be pulled")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


COMMANDS = (push,)
PLUGIN_COMMANDS = (push_,)
