"""Commands that only look: list, show, check, schema."""

from __future__ import annotations

from typing import Annotated

import typer

from ldm_registry.cli.arguments import Device, Json, Spec, resolve
from ldm_registry.cli.listing import list_components
from ldm_registry.cli.outcome import Result, to_json


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="encoder, denoiser, scheduler, decoder, schedule or conditioner."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Import every plugin, and mark those that fail.")
    ] = False,
    json: Json = False,
) -> Result:
    """List the components that installed plugins declare. Imports none of them."""
    return list_components(kind, check=check)


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A component's name, or kind/name.")],
    json: Json = False,
) -> Result:
    """Show what a component is and every field of its config."""
    from ldm_registry.report.component_card import find, render

    cards = find(name)
    return Result({"components": cards}, "\n\n".join(map(render, cards)))


def check(spec: Spec, device: Device = None, json: Json = False) -> Result:
    """Build the pipeline of a spec and report every reason why it would not run."""
    resolved = resolve(spec, device=device)
    from ldm_registry.assembly import assemble
    from ldm_registry.report.fit import describe_fit, render

    document = describe_fit(assemble(resolved))
    return Result(document, render(document))


def schema(json: Json = False) -> Result:
    """Print the JSON Schema of a spec, for editors."""
    from ldm_registry.spec import json_schema

    document = json_schema()
    return Result(document, to_json(document))


COMMANDS = (list_, show, check, schema)
