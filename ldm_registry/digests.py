"""SHA-256 of files, and whether a checkpoint folder still is what its contract says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ldm_registry.contracts import Contract, FileDigest
from ldm_registry.errors import CheckpointError

_PROSE = "README.md"
"""The model card: no component reads it, and its author goes on writing it."""


def verify(folder: Path, contract: Contract, read: Callable[[Path], str] | None = None) -> None:
    """Compare the files of a folder with the sizes and digests in its contract.

    Args:
        folder: The checkpoint.
        contract: Its own.
        read: Gives the SHA-256 of a file; None reads it whole.

    Raises:
        CheckpointError: A file is missing or differs.
    """
    problems = []
    for name, expected in contract.files.items():
        if name == _PROSE:
            continue
        path = folder / name
        if Path(name).name != name:
            problems.append(f"{name!a}: a contract names files of its own folder only")
        elif not path.is_file():
            problems.append(f"{name}: missing")
        elif (got := path.stat().st_size) != expected.size:
            problems.append(f"{name}: {got} bytes, the contract says {expected.size}")
        elif (digest := (read or sha256)(path)) != expected.sha256:
            problems.append(f"{name}: sha256 {digest}, the contract says {expected.sha256}")
    if problems:
        raise CheckpointError(
            f"{folder} is not what its contract says", problems, hint="fetch it again, or train it again"
        )


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> FileDigest:
    """Size and SHA-256 of a file."""
    return FileDigest(sha256=sha256(path), size=path.stat().st_size)
