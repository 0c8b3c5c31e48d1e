"""Small JSON files of a checkpoint: read whole, checked for size, never through a link that leads elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError, NotFoundError, did_you_mean
from ldm_registry.links import contained

MAX_JSON_BYTES = 2**20


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a small file.

    Args:
        path: The file.
        max_bytes: The most that it may be long.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a link out of its folder.
        CheckpointError: It is too long, is not a JSON object, or has a key twice.
    """
    contained(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise NotFoundError(f"{path} does not exist", hint=what_is_there(path.parent)) from error
    if size > max_bytes:
        raise CheckpointError(f"{path} is {size} bytes long; at most {max_bytes} are allowed")
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON", [str(error)]) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds {type(document).__name__}, expected an object")
    return document


def what_is_there(folder: Path) -> str:
    """A sentence on the contents of a folder, or on the folders of about its name where it does not exist."""
    if not folder.is_dir():
        near = (
            [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
            if folder.parent.is_dir()
            else []
        )
        return f"there is no folder {folder}; {did_you_mean(folder.name, near)}"
    return f"{folder} holds {', '.join(sorted(entry.name for entry in folder.iterdir())[:12]) or 'nothing'}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"a key stands there twice: {', '.join(map(ascii, twice[:8]))}")
    return unique
