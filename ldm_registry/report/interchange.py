"""What an import or an export did, as a JSON document and for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm_registry.build import Built
from ldm_registry.interchange import Converted, Exported, Imported
from ldm_registry.report.tables import table
from ldm_registry.spec_paths import shown


def describe_import(imported: Imported | Converted, output: Path) -> dict[str, Any]:
    """An import that was written.

    Args:
        imported: What was found, or the component folders that a single file became.
        output: The spec's file.
    """
    if isinstance(imported, Converted):
        return {
            "spec": None,
            "family": imported.family,
            "components": [str(folder) for folder in imported.components],
            "notes": list(imported.notes),
        }
    stages: dict[str, Built] = {str(stage): built for stage, built in imported.plan.stages.items()}
    parts = {**stages, **imported.plan.conditioners}
    return {
        "spec": str(output),
        "parts": {
            label: {
                "component": built.component.name,
                "parameters": sum(parameter.numel() for parameter in built.component.parameters()),
                "checkpoint": str(built.folder) if built.folder else None,
            }
            for label, built in parts.items()
        },
        "contracts": [str(path) for path in imported.contracts],
        "class_defaults": {path.stem: list(one.defaults) for path, one in imported.contracts.items()},
        "notes": list(imported.notes),
        "warnings": list(imported.plan.warnings),
    }


def render_import(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    if document["spec"] is None:
        written = [f"wrote {folder}" for folder in document["components"]]
        notes = [f"note: {note}" for note in document["notes"]]
        return "\n".join(
            [*written, *notes, "no whole pipeline, so no spec: name the folders as `checkpoint:` in one"]
        )
    rows = [
        (
            label,
            part["component"],
            f"{part['parameters']:,}" if part["parameters"] else "",
            shown(Path(part["checkpoint"])) if part["checkpoint"] else "",
        )
        for label, part in document["parts"].items()
    ]
    lines = [table(("part", "component", "parameters", "checkpoint"), rows, right=(2,))]
    for name, defaults in document["class_defaults"].items():
        if defaults:
            lines.append(f"{name}: not stated, so the defaults of its class: {', '.join(defaults)}")
    lines += [f"note: {note}" for note in document["notes"]]
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join([*lines, f"wrote {document['spec']} and {len(document['contracts'])} contracts"])


def describe_export(exported: Exported) -> dict[str, Any]:
    """An export that was written."""
    return {"folder": str(exported.folder), "pipeline": exported.pipeline, "call": dict(exported.call)}


def render_export(document: dict[str, Any]) -> str:
    """The same for a terminal: how to open it."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in document["call"].items())
    return "\n".join(
        [
            f"wrote {document['folder']}",
            f"pipe = diffusers.{document['pipeline']}.from_pretrained({document['folder']!r})",
            f"pipe(..., {arguments})",
        ]
    )
