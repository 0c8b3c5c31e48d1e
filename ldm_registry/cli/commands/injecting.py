"""The command that breaks a spec on purpose: inject."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Json, Overwrite, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.vocabulary import STAGES, Kind

if TYPE_CHECKING:
    from ldm_registry.diagnostics.injection import KnownFault


def inject(
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC]", help="A YAML file, or the name of a bundled spec.")
    ] = None,
    fault: Annotated[
        str | None, typer.Argument(metavar="[FAULT]", help="Its name; `ldm inject --list` shows all.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="Above 0, up to 1, which is the fault as it was met; default: 1."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Where to put it, for a fault that several stages can have."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="NEW.yaml", help="File to write; default: stdout."),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show every fault that is installed.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Put a known fault into one stage of a spec, to see what it does and whether a diagnosis finds it."""
    from ldm_registry.diagnostics.injection import injected, known_faults
    from ldm_registry.registry import Registry

    registry = Registry.discover()
    if listing:
        from ldm_registry.report.tables import table

        faults = known_faults(registry)
        rows = [[one.name, one.fault_id, " + ".join(one.stages), _about(one)] for one in faults]
        documents = [
            {
                "name": one.name,
                "fault": one.fault_id,
                "stages": [*one.stages],
                "modifies": [*one.modifies],
                "about": _about(one),
            }
            for one in faults
        ]
        return Result({"faults": documents}, table(["name", "fault", "put into", "what it is"], rows))
    if spec is None or fault is None:
        raise SpecError("ldm inject needs a SPEC and a FAULT", hint="`ldm inject --list` shows every fault")
    from ldm_registry.assembly import assemble
    from ldm_registry.report.change import write
    from ldm_registry.spec import dump_spec

    place = None if stage is None else _stage(stage)
    changed = injected(resolve(spec), fault, registry, strength=strength, stage=place)
    assemble(changed, registry)
    text = dump_spec(changed, relative_to=Path.cwd())
    if output is not None:
        text = write(output, changed, overwrite=overwrite)
    document = {"fault": fault, "yaml": text, "file": str(output) if output else None}
    return Result(document, f"wrote {output}" if output else text.rstrip("\n"))


def _about(fault: KnownFault) -> str:
    """What it is, without the number that stands beside it."""
    return fault.about.removeprefix(f"{fault.fault_id}: ")


def _stage(word: str) -> Kind:
    if word not in STAGES:
        raise SpecError(
            f"there is no stage {word!r}", hint=did_you_mean(word, [kind.value for kind in STAGES])
        )
    return Kind(word)


COMMANDS = (inject,)
