"""One session of a run: has the shards made that are missing, and records what is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import final

from ldm_registry.streaming.making import Made, Maker
from ldm_registry.streaming.manifest import MANIFEST, Manifest
from ldm_registry.streaming.progress import Progress
from ldm_registry.streaming.resuming import joined

FINISHED, INTERRUPTED = "finished", "interrupted"
WRITING_SHARE = 0.05
"""Of the time may go into writing the manifest, which grows with the run: what it does not list is made again."""


@final
class Session:
    """Has made what is missing.

    Args:
        maker: Makes it.
        folder: Claimed.
        manifest: What there is already.
        interrupted: Whether to stop; asked after every report of the maker.
    """

    def __init__(
        self, maker: Maker, folder: Path, manifest: Manifest, interrupted: Callable[[], bool]
    ) -> None:
        self._maker, self._folder, self._manifest = maker, folder, manifest
        self._interrupted = interrupted
        self._shards = dict(manifest.shards)
        self._found = self._whole = manifest.whole
        self._begin = time.monotonic()
        self._is_written, self._next_writing_s = True, 0.0

    def reports(self, notes: tuple[str, ...] = ()) -> Iterator[Progress]:
        """Work as it is pulled: a report at the beginning, as often as the maker tells of its work, and at the end.

        Args:
            notes: For the first report.
        """
        yield self._report(notes=notes)
        plan = self._manifest.plan
        missing = [shard for shard in plan.shards() if shard.number not in self._shards]
        made = 0.0
        try:
            if missing:
                with closing(self._maker.making(plan, missing)) as happening:
                    for so_far in happening:
                        made = so_far.images
                        self._record()
                        if self._interrupted():
                            break
                        yield self._report(made, notes=(*so_far.notes, *self._joined(so_far)))
        finally:
            self._record(last=True)
        is_finished = self._whole == plan.n
        yield self._report(made, stopped=FINISHED if is_finished else INTERRUPTED)

    def _joined(self, so_far: Made) -> list[str]:
        """Note in the manifest on what machines shards are made, and say where one is new to the run."""
        notes = []
        if so_far.surroundings and not so_far.images:
            self._begin = (
                time.monotonic()
            )  # workers take a while to start, which says nothing about their rate
        for here in so_far.surroundings:
            if here not in self._manifest.sessions:
                listed = replace(self._manifest, shards=self._shards)
                self._manifest, note = joined(listed, here)
                self._is_written = False
                notes += [note] if note else []
        return notes

    def _record(self, *, last: bool = False) -> None:
        """List the shards that were finished meanwhile.

        Args:
            last: Whether the manifest has to say so in any case.
        """
        for shard, entry in self._maker.finished():
            self._shards[shard.number] = entry
            self._whole += entry.count
            self._is_written = False
        begin = time.monotonic()
        if not self._is_written and (last or begin >= self._next_writing_s):
            replace(self._manifest, shards=self._shards).write(self._folder)
            end = time.monotonic()
            self._is_written, self._next_writing_s = True, end + (end - begin) / WRITING_SHARE

    def _report(
        self, made: float = 0.0, *, notes: tuple[str, ...] = (), stopped: str | None = None
    ) -> Progress:
        """Where the session stands.

        Args:
            made: Images of this session.
            notes: To be told.
            stopped: Why it ends here.
        """
        return Progress(
            plan=self._manifest.plan,
            manifest=self._folder / MANIFEST,
            spec_sha256=self._manifest.identity.spec_sha256,
            whole=self._whole,
            found=self._found,
            made=made,
            elapsed_s=time.monotonic() - self._begin,
            notes=notes,
            stopped=stopped,
        )
