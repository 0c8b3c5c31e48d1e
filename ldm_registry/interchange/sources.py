"""From whatever a user points at to an import, and the import to files."""

from __future__ import annotations

from pathlib import Path

from ldm_registry.errors import SpecError
from ldm_registry.interchange.importing import Imported
from ldm_registry.spec import dump_spec


def write(imported: Imported, output: Path, *, overwrite: bool = False) -> None:
    """Write the contracts, and last the spec that refers to them.

    Args:
        imported: What was found.
        output: File of the spec.
        overwrite: Also replace an earlier spec.

    Raises:
        SpecError: The file exists.
    """
    if output.exists() and not overwrite:
        raise SpecError(f"{output} exists already", hint="name another file, or add --overwrite")
    for path, contract in imported.contracts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contract.model_dump_json(indent=2, exclude_defaults=True) + "\n", encoding="utf-8")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(dump_spec(imported.spec, relative_to=output.absolute().parent), encoding="utf-8")
