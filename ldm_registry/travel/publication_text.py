"""What would be published, and what was, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm_registry.errors import SpecError
from ldm_registry.travel.plugin_push import PreparedPlugin
from ldm_registry.travel.publishing import Published
from ldm_registry.travel.push import Prepared

MIB = 2**20
COMMIT = "COMMIT"
"""Stands in a dry run for what is not known before."""


def describe(prepared: Prepared | PreparedPlugin, published: Published | None) -> dict[str, Any]:
    """A publication as a JSON document.

    Args:
        prepared: What was to be published.
        published: What came of it; None for a dry run.
    """
    parcel = prepared.parcel
    document: dict[str, Any] = {
        "repository": prepared.repository,
        "version": parcel.version,
        "tag": parcel.tag,
        "dry_run": published is None,
        "commit": published.commit if published else None,
        "uploaded": list(published.uploaded) if published else [],
        "removed": list(published.removed) if published else [],
        "paste": prepared.lines(published.commit if published else COMMIT),
        "files": [
            {"path": path, "size": facts.size, "sha256": facts.sha256} for path, facts in parcel.facts.items()
        ],
        "left_out": list(prepared.left_out),
        "notes": list(prepared.notes),
    }
    if isinstance(prepared, PreparedPlugin):
        return {**document, "code_digest": prepared.digest, "conformance": prepared.report.to_dict()}
    figures = [
        {"name": one.name, "recorded": one.recorded, "found": one.found} for one in prepared.measured.figures
    ]
    return {**document, "components": dict(prepared.contract.components), "measured": figures}


def render(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    return "\n".join(_lines(document))


def write_copy(prepared: Prepared | PreparedPlugin, folder: Path) -> None:
    """Write what would be published to a folder, to be looked at.

    Raises:
        SpecError: The folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SpecError(f"{folder} is not empty", hint="name a new folder")
    for path, content in prepared.parcel.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def _lines(document: dict[str, Any]) -> Iterator[str]:
    files = document["files"]
    total = sum(file["size"] for file in files)
    width = max(len(f"{file['size']:,}") for file in files)
    count = f"{len(files)} file{'s' if len(files) != 1 else ''}, {total / MIB:.1f} MiB"
    if document["dry_run"]:
        yield f"{document['repository']} {document['tag']} would hold"
        yield from (f"  {file['size']:>{width},}  {file['path']}" for file in files)
        yield f"{count}; nothing was sent"
    else:
        uploaded = len(document["uploaded"])
        sent = f"{uploaded} of them uploaded" if uploaded else "all of them were there already"
        yield (
            f"published {document['repository']} {document['tag']}: {count}, {sent}; every byte was fetched again "
            "and compared"
        )
        yield from (f"  removed: {path}" for path in document["removed"])
    if document["left_out"]:
        yield f"left out: {', '.join(document['left_out'][:12])}{' ...' if len(document['left_out']) > 12 else ''}"
    yield from (f"note: {note}" for note in document["notes"])
    yield from document["paste"]
