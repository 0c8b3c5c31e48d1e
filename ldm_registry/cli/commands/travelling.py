"""Commands that talk to the Hub: search, pull, lock; and push, which stands in `publishing`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldm_registry.cli.arguments import Json, Spec
from ldm_registry.cli.commands import publishing
from ldm_registry.cli.outcome import Result
from ldm_registry.vocabulary import Kind


def search(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORDS]...", help="Of the repository's name.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Only components of this kind.", show_default=False)
    ] = None,
    latent: Annotated[
        str | None,
        typer.Option("--latent", metavar="4ch-f8", help="Only for such latents: channels and stride."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only with this tag of the card.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="The most to name.")] = 50,
    json: Json = False,
) -> Result:
    """Find checkpoints on the Hub that say what they are for."""
    from ldm_registry.hub import Hub
    from ldm_registry.report.travelling import LATENT_TAG, TAG, describe_search, render_search

    tags = [TAG, *([f"ldm-{kind}"] if kind else []), *(tag or [])]
    if latent:
        tags.append(f"{LATENT_TAG}{latent}")
    found = Hub.from_environment().search(" ".join(words or ()) or None, tags, limit)
    document = describe_search(found)
    return Result(document, render_search(document))


def pull(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="REPO[@REVISION]",
            help="org/name, org/name@v1.0.0 or hf://org/name@<40-hex commit>; no revision is the main branch.",
        ),
    ],
    folder: Annotated[
        str, typer.Option("--folder", metavar="NAME", help="Of the repository, where it holds several.")
    ] = "",
    json: Json = False,
) -> Result:
    """Fetch a checkpoint, compare every file, and print the line that names it in a spec."""
    from ldm_registry.hub import Hub
    from ldm_registry.report.travelling import describe_pull, render_pull
    from ldm_registry.travel.pinning import pinned
    from ldm_registry.travel.pull import obtain

    hub = Hub.from_environment()
    reference = pinned(repository, hub, folder)
    held = obtain(reference, hub=hub)
    _, _, revision = repository.rpartition("@") if "@" in repository else ("", "", None)
    named = revision if revision is not None and reference.commit not in revision else None
    document = describe_pull(held, revision=named)
    return Result(document, render_pull(document))


def lock(
    spec: Spec,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Default: ldm.lock beside the spec, where it counts."
        ),
    ] = None,
    json: Json = False,
) -> Result:
    """Pull what a spec names on the Hub, and write down size and SHA-256 of every file of it."""
    from ldm_registry.report.travelling import describe_lock, render_lock
    from ldm_registry.spec import load_spec
    from ldm_registry.travel.in_specs import lock_path, lock_spec

    loaded = load_spec(spec)
    path = output or lock_path(loaded) or Path("ldm.lock")
    document = describe_lock(path, lock_spec(loaded, path))
    return Result(document, render_lock(document))


COMMANDS = (search, pull, lock, *publishing.COMMANDS)
