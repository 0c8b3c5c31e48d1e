"""The command line as typer sees it. Importing this imports no torch; a command does when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from typing import Annotated

import typer

from ldm_registry.cli.commands import (
    benching,
    diagnosing,
    injecting,
    inspecting,
    interchanging,
    making,
    plugins,
    scoring,
    surveying,
    training,
    travelling,
)
from ldm_registry.cli.outcome import INTERRUPTED_EXIT_CODE, Result
from ldm_registry.errors import SpecError

app = typer.Typer(
    name="ldm",
    help="Assemble diffusion pipelines from interchangeable parts, swap any of them, and measure each one.",
    epilog="Exit codes: 0 healthy, 1 findings, 2 usage or invalid spec, 3 not found, 4 refused, 5 network, "
    "6 plugin, 7 disk or memory full, 70 a bug. A SPEC is a YAML file or the name of a bundled spec.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    *inspecting.COMMANDS,
    *making.COMMANDS,
    *interchanging.COMMANDS,
    *training.COMMANDS,
    *diagnosing.COMMANDS,
    *scoring.COMMANDS,
    *surveying.COMMANDS,
    *benching.COMMANDS,
    *injecting.COMMANDS,
    *travelling.COMMANDS,
):
    app.command(name=command.__name__.rstrip("_").replace("_", "-"))(command)

plugin = typer.Typer(
    help="Write, test and share plugins.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for one in plugins.COMMANDS:
    plugin.command(name=one.__name__.rstrip("_").replace("_", "-"))(one)
app.add_typer(plugin, name="plugin")


def invoke(words: Sequence[str]) -> Result | None:
    """Parse a command line and run its command.

    What a plugin or a library prints meanwhile goes to stderr: stdout is for the result alone.

    Args:
        words: Without the program's name.

    Returns:
        What the command found; None after a help text, which is already printed.

    Raises:
        SpecError: The command line is wrong.
        LdmError: As the command says.
    """
    asks_for_help = "--help" in words
    try:
        with nullcontext() if asks_for_help else redirect_stdout(sys.stderr):
            outcome = app(args=list(words), prog_name="ldm", standalone_mode=False)
    except Exception as error:
        # typer's own errors have a public base in none of its versions; this method is what they share.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "ldm"
        raise SpecError(f"{path}: {error.format_message()}", hint=f"`{path} --help` shows how") from error
    if outcome == INTERRUPTED_EXIT_CODE:  # typer turns a Ctrl-C into this number
        raise KeyboardInterrupt
    return outcome if isinstance(outcome, Result) else None


@app.callback()
def _ldm(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        print(f"ldm-registry {version('ldm-registry')}")
        raise typer.Exit
