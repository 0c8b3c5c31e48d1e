"""What was found on the Hub, pulled from it and locked, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_registry.hub import Found, clean
from ldm_registry.json_files import read_json
from ldm_registry.report.tables import table
from ldm_registry.travel.pull import Held
from ldm_registry.travel.references import Reference
from ldm_registry.vocabulary import Kind

TAG = "ldm-component"
PLUGIN_TAG = "ldm-plugin"
LATENT_TAG = "ldm-latent-"


def describe_search(found: Sequence[Found]) -> dict[str, Any]:
    """What a search found, as a JSON document."""
    return {"found": [_described(one) for one in found]}


def render_search(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    if not document["found"]:
        return "nothing was found"
    rows = [
        (
            one["repository"],
            ", ".join(one["kinds"]),
            ", ".join(one["latents"]),
            one["license"] or "",
            f"{one['downloads']:,}",
            ", ".join(word for word in ("plugin", "gated", "private") if one[word]),
        )
        for one in document["found"]
    ]
    shown = table(("repository", "kinds", "latent", "licence", "downloads", ""), rows, right=(4,))
    hint = "`ldm pull REPOSITORY` fetches a checkpoint and prints the line that names it in a spec"
    if any(one["plugin"] for one in document["found"]):
        hint += "\n`ldm plugin install REPOSITORY` shows the code of a plugin and asks before it is installed"
    return f"{shown}\n{hint}"


def describe_pull(held: Held, *, revision: str | None) -> dict[str, Any]:
    """What was pulled, as a JSON document."""
    return {
        "checkpoint": str(held.reference),
        "repository": held.reference.repository,
        "commit": held.reference.commit,
        "revision": revision,
        "folder": str(held.folder),
        "components": _components(held.folder),
        "files": [
            {"path": path, "size": facts.size, "sha256": facts.sha256}
            for path, facts in sorted(held.files.items())
        ],
        "verified": True,
    }


def render_pull(document: dict[str, Any]) -> str:
    """The same for a terminal, with the lines to paste into a spec."""
    size = sum(file["size"] for file in document["files"]) / 2**20
    said = f" ({clean(document['revision'])})" if document["revision"] else ""
    pasted = [
        f"{kind}: {{use: {name}, checkpoint: {document['checkpoint']}}}"
        for kind, name in sorted(document["components"].items())
    ]
    return "\n".join(
        [
            f"{document['repository']}{said}: {len(document['files'])} files, {size:.1f} MiB, every digest checked",
            *(pasted or [f"checkpoint: {document['checkpoint']}"]),
        ]
    )


def describe_lock(path: Path, held: Sequence[Held]) -> dict[str, Any]:
    """What was locked, as a JSON document."""
    return {
        "lock": str(path) if held else None,
        "checkpoints": [
            {"checkpoint": str(one.reference), "files": len(one.files)}
            for one in sorted(held, key=lambda one: one.reference)
        ],
    }


def render_lock(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    if document["lock"] is None:
        return "the spec names nothing on the Hub: there is nothing to lock"
    lines = [f"{one['checkpoint']}: {one['files']} files" for one in document["checkpoints"]]
    return "\n".join([*lines, f"wrote {document['lock']}; put it under version control, beside the spec"])


def _described(one: Found) -> dict[str, Any]:
    plugin = PLUGIN_TAG in one.tags
    licences = [tag.removeprefix("license:") for tag in one.tags if tag.startswith("license:")]
    return {
        "repository": one.repository,
        "plugin": plugin,
        "checkpoint": str(Reference(one.repository, one.commit)) if one.commit and not plugin else None,
        "kinds": [kind.value for kind in Kind if f"ldm-{kind}" in one.tags],
        "latents": [tag.removeprefix(LATENT_TAG) for tag in one.tags if tag.startswith(LATENT_TAG)],
        "license": licences[0] if licences else None,
        "downloads": one.downloads,
        "private": one.private,
        "gated": one.gated,
        "tags": list(one.tags),
    }


def _components(folder: Path) -> dict[str, str]:
    """Kind to name, as the contract says; words that no spec could hold are left out."""
    path = folder / "contract.json"
    said = read_json(path).get("components") if path.is_file() else None
    named = said.items() if isinstance(said, dict) else ()
    return {
        kind: name
        for kind, name in named
        if kind in set(Kind) and isinstance(name, str) and name.isascii() and name.replace("-", "a").isalnum()
    }
