"""Whether a worker elsewhere writes to the very folder that the run is recorded in."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm_registry.errors import ResourceError
from ldm_registry.streaming.whole_file import ENDING, written_whole

PATIENCE_S = 5.0
"""For which a network file system may keep a new file from its other clients."""


@contextmanager
def marked(folder: Path) -> Iterator[str]:
    """Meanwhile a file lies in the folder by which workers know it.

    Args:
        folder: Claimed.

    Yields:
        Its name.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    mark = folder / f".mark.{uuid.uuid4().hex}{ENDING}"
    with written_whole(mark) as file:
        file.write(mark.name.encode())
    try:
        yield mark.name
    finally:
        mark.unlink(missing_ok=True)


def check_shared(folder: Path, mark: str) -> None:
    """Refuse a folder that is not the marked one, or cannot be written to from here.

    Args:
        folder: By its path, which is the same everywhere.
        mark: What `marked` yielded, elsewhere.

    Raises:
        ResourceError: Says which of the two.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / mark).is_file():
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{folder} is not the folder that the run is written to",
                hint="workers write shards themselves: name a folder that all machines share, under the same path",
            )
        time.sleep(0.1)
    trial = folder / f".trial.{uuid.uuid4().hex}{ENDING}"
    with written_whole(trial) as file:
        file.write(b"whether this folder can be written to")
    trial.unlink(missing_ok=True)
