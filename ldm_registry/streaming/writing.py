"""Shards written on a thread of their own: sampling goes on while pictures are packed and the disk is waited for."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Self, final

from torch import Tensor

from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Shard
from ldm_registry.streaming.shard_file import OpenShard, Sidecars, entry_of, open_shard

WAITING = 2
"""Batches that may wait to be written: more would only take memory."""


@final
class Writing:
    """Takes images in order and makes shards of them. To be entered; at its end everything handed over is written.

    A shard that has not got all its images by then never appears.

    Args:
        folder: Where to.
        sidecars: What is noted beside each image.
    """

    def __init__(self, folder: Path, sidecars: Sidecars) -> None:
        self._folder, self._sidecars = folder, sidecars
        self._queue: Queue[tuple[Shard, Tensor] | None] = Queue(WAITING)
        self._finished: deque[tuple[Shard, Entry]] = deque()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shards", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._check()

    def put(self, shard: Shard, pixels: Tensor) -> None:
        """Hand over the next images of a shard; waits while others wait already.

        Args:
            shard: Where they belong. A shard's images come in order, and one shard after the other.
            pixels: uint8 [B, H, W, C] on the CPU.

        Raises:
            ResourceError: Earlier images could not be written.
        """
        self._check()
        self._queue.put((shard, pixels))

    def finished(self) -> list[tuple[Shard, Entry]]:
        """The shards that were finished since this was asked last."""
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._write()
        except _UnfinishedError:
            return
        except BaseException as error:
            self._failure = error
            while self._queue.get() is not None:  # whoever hands over must not wait for ever
                pass

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            shard, pixels = item
            with open_shard(self._folder, shard, self._sidecars) as opened:
                opened.add(pixels)
                self._rest(opened)
            self._finished.append((shard, entry_of(self._folder, shard)))

    def _rest(self, opened: OpenShard) -> None:
        while opened.added < len(opened.shard.images):
            item = self._queue.get()
            if item is None:
                raise _UnfinishedError
            opened.add(item[1])


class _UnfinishedError(Exception):
    """The run ends in the middle of a shard, whose file is given up."""
