"""Files that are whole or absent, whenever the machine stops; a disk that is full says so."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ldm_registry.errors import ResourceError

ENDING = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, under a name of its own; at the end it is on the disk and takes its real name.

    Args:
        path: The real name. What stood there before is replaced in one step.

    Raises:
        ResourceError: The disk is full, or does not let itself be written to; nothing stays behind.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ENDING}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(partial)
        raise _trouble(path, error) from error
    except BaseException:
        _remove(partial)
        raise


def remove_partial(folder: Path) -> None:
    """Remove what a session that was killed left unfinished."""
    for path in folder.glob(f".*{ENDING}"):
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Let the new name reach the disk too, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _trouble(path: Path, error: OSError) -> ResourceError:
    if error.errno not in _FULL:
        return ResourceError(
            f"{path} could not be written: {error.strerror or error}",
            hint="finished shards are whole; when the cause is gone, the same command goes on from them",
        )
    free_mib = shutil.disk_usage(path.parent).free / 2**20
    return ResourceError(
        f"{path} could not be written: {error.strerror}",
        [f"{free_mib:,.0f} MiB are free in {path.parent}"],
        hint="finished shards are whole; free some space, and the same command goes on from them",
    )
