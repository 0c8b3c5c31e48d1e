"""The folder of a streamed run: one session at a time, and what an earlier one left is gone on with or left alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm_registry.errors import ResourceError, SpecError
from ldm_registry.streaming.manifest import MANIFEST
from ldm_registry.streaming.whole_file import remove_partial

LOCK = ".lock"


@contextmanager
def claimed(folder: Path, *, overwrite: bool = False) -> Iterator[None]:
    """Have a folder to oneself, with nothing unfinished in it; the end of a process lets it go, however it ends.

    Args:
        folder: Made where it is missing.
        overwrite: Also take a folder that holds something else; that stays.

    Raises:
        SpecError: It is a file, holds something else, or another session writes to it at this moment.
        ResourceError: It cannot be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; a run is written into a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in folder.iterdir() if path.name != LOCK]
        if others and not (folder / MANIFEST).is_file() and not overwrite:
            raise SpecError(
                f"{folder} is not empty and holds no earlier streamed run",
                hint="name another folder, or overwrite this one (--overwrite)",
            )
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written to: {error.strerror or error}") from error
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SpecError(
                    f"another run is writing to {folder}", hint="wait for its end, or name another folder"
                ) from error
        remove_partial(folder)
        yield


def clear(folder: Path) -> None:
    """Remove the shards and the manifest of a run; the manifest first, so that no shard is ever listed in vain."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob("images-[0-9]*.tar"):
        path.unlink(missing_ok=True)
