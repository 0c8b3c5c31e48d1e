"""What can be told of a checkpoint's files before anybody uses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError, IntegrityError
from ldm_registry.json_files import read_json
from ldm_registry.safetensors_header import read_header
from ldm_registry.travel.lock import Files
from ldm_registry.travel.references import Reference

_ASKS_FOR_TRUST = ("trust", "auto_map", "remote_code", "custom_code")


def check_content(reference: Reference, folder: Path, facts: Files) -> None:
    """Look into the files of a checkpoint that has arrived.

    Args:
        reference: What it is.
        folder: Where it lies.
        facts: Size and digest of each file, by path.

    Raises:
        IntegrityError: The header of a file of weights lies, a config or a contract asks for trust, or the contract
            describes other files.
    """
    for path in sorted(facts):
        if path.endswith(".safetensors"):
            read_header(folder / path)
        elif path.rpartition("/")[2] in ("config.json", "contract.json"):
            _refuse_trust(reference, path, read_json(folder / path))
    if "contract.json" in facts:
        _check_contract(reference, read_json(folder / "contract.json").get("files"), facts)


def _refuse_trust(reference: Reference, path: str, document: Mapping[str, Any]) -> None:
    asking = [key for key in document if any(word in key.lower() for word in _ASKS_FOR_TRUST)]
    if asking:
        raise IntegrityError(
            f"{reference} was refused: {path} asks for trust",
            [f"key {ascii(key)[:80]}" for key in asking],
            hint="data cannot grant trust to code; a plugin is installed with `ldm plugin install`",
        )


def _check_contract(reference: Reference, said: object, facts: Files) -> None:
    if not isinstance(said, Mapping):
        raise CheckpointError(f"{reference}: contract.json names no files")
    problems = []
    for name, expected in said.items():
        held = facts.get(name)
        if name == "README.md":
            continue  # an author may write on the card after saving; no component reads it
        if not isinstance(expected, Mapping):
            problems.append(f"{ascii(name)[:80]}: malformed")
        elif held is None:
            problems.append(f"{ascii(name)[:80]}: expected by the contract, found nothing")
        elif held.sha256 != expected.get("sha256") or held.size != expected.get("size"):
            problems.append(
                f"{name}: expected {expected.get('size')} bytes, sha256 {expected.get('sha256')}, "
                f"found {held.size} bytes, sha256 {held.sha256}"
            )
    if problems:
        raise CheckpointError(
            f"{reference} is not what its contract says", problems, hint="nothing was kept; tell its author"
        )
