"""Whether a file of a checkpoint folder lies in that folder, or is a link to somewhere else."""

from __future__ import annotations

import re
from pathlib import Path

from ldm_registry.errors import IntegrityError


def contained(path: Path) -> Path:
    """A file of a folder, unless it is a link that leads out of the folder.

    The folder itself may be a link. The cache of the Hub is let through: there
    `models--ORG--NAME/snapshots/<commit>/...` links to `models--ORG--NAME/blobs`.

    Args:
        path: The file; it need not exist.

    Raises:
        IntegrityError: It resolves to a place outside of its folder.
    """
    if not path.is_symlink():
        return path
    home = path.parent.resolve()
    try:
        target = path.resolve()
    except RuntimeError as error:
        raise IntegrityError(f"{path} was refused", ["the link leads to itself"]) from error
    blobs = _blobs(home)
    if target.is_relative_to(home) or (blobs is not None and target.is_relative_to(blobs)):
        return path
    raise IntegrityError(
        f"{path} was refused",
        [f"it is a link to {target}, outside of the checkpoint folder"],
        hint="copy the file into the folder, or link the whole folder",
    )


def _blobs(folder: Path) -> Path | None:
    """Where the Hub's cache keeps the files of the snapshot that a folder is part of, if it is."""
    for commit in (folder, *folder.parents):
        snapshots, repository = commit.parent, commit.parent.parent
        if (
            re.fullmatch(r"[0-9a-f]{40}", commit.name)
            and snapshots.name == "snapshots"
            and repository.name.startswith("models--")
        ):
            return repository / "blobs"
    return None
