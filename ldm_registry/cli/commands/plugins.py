"""Commands about plugins: `ldm plugin new`, `ldm plugin test`."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ldm_registry.cli.arguments import Json
from ldm_registry.cli.commands import installing, publishing
from ldm_registry.cli.outcome import Result
from ldm_registry.errors import SpecError
from ldm_registry.vocabulary import Kind


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the component, such as my-codec.")],
    kind: Annotated[
        list[str],
        typer.Option("--kind", metavar="KIND", help=f"{', '.join(Kind)}; several with commas."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder; default: ldm-NAME.")
    ] = None,
    allow_clash: Annotated[
        bool, typer.Option("--allow-clash", help="Also where an installed plugin has that name.")
    ] = False,
    json: Json = False,
) -> Result:
    """Write a plugin: a project that installs, passes its tests and runs in a spec as it stands."""
    from ldm_registry.authoring.plugin_project import describe, new_project, parse_kinds, render

    project = new_project(name, parse_kinds(kind), output, allow_clash=allow_clash)
    return Result(describe(project), render(project))


def test_(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="PATH|NAME",
            help="Folder of a project, written as ./FOLDER, whose code is run; or what is installed: a component, "
            "kind/name, or a distribution.",
        ),
    ],
    config: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="KEY=VALUE", help="What the components are built with."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="DIR", help="For a conditioner of text.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="DIR", help="Weights of the component; its contract is measured."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="TAR", help="Images to measure the contract with.")
    ] = None,
    json: Json = False,
) -> Result:
    """Run the conformance suite on a plugin. It needs no test file; exit code 1 where a check fails."""
    from ldm_registry.authoring.plugin_check import Wishes, check_installed, check_project, render

    wishes = Wishes(_settings(config or ()), tokenizer, checkpoint, images)
    reports = (check_project(Path(plugin), wishes),) if _is_path(plugin) else check_installed(plugin, wishes)
    passed = all(report.passed for report in reports)
    document = {"passed": passed, "plugins": [report.to_dict() for report in reports]}
    return Result(document, "\n\n".join(map(render, reports)), 0 if passed else 1)


def _is_path(word: str) -> bool:
    """Whether a word means a folder: it says so with a leading dot or a separator. `kind/name` is no path."""
    kind, _, rest = word.partition("/")
    named = kind in set(Kind) and bool(rest) and "/" not in rest
    return word.startswith((".", "~")) or "\\" in word or ("/" in word and not named)


def _settings(words: Sequence[str]) -> dict[str, Any] | None:
    """`KEY=VALUE` words as a config; a value is JSON where it can be, else a text."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise SpecError(f"cannot read the setting {word!r}: expected KEY=VALUE")
        try:
            values[key] = json_format.loads(value)
        except json_format.JSONDecodeError:
            values[key] = value
    return values or None


COMMANDS = (new, test_, *publishing.PLUGIN_COMMANDS, *installing.COMMANDS)
