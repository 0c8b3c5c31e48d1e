"""One session of a run: samples the batches of all shards that are missing, and hands them to whoever writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import torch

from ldm_registry.errors import ResourceError
from ldm_registry.pipeline import Decoded, Event, Pipeline, Started, Stepped
from ldm_registry.report.timing import to_pixels
from ldm_registry.streaming.batch_size import is_out_of_memory
from ldm_registry.streaming.manifest import MANIFEST, Manifest
from ldm_registry.streaming.progress import Progress
from ldm_registry.streaming.shard_file import Sidecars
from ldm_registry.streaming.writing import Writing

FINISHED, INTERRUPTED = "finished", "interrupted"


@final
class Session:
    """Makes what is missing.

    Args:
        pipe: What makes it.
        folder: Claimed.
        manifest: What there is already.
        interrupted: Whether to stop; asked after every step.
    """

    def __init__(
        self, pipe: Pipeline, folder: Path, manifest: Manifest, interrupted: Callable[[], bool]
    ) -> None:
        self._pipe, self._folder, self._manifest = pipe, folder, manifest
        self._interrupted = interrupted
        self._found = self._whole = manifest.whole
        self._made = 0
        self._begin = time.monotonic()

    def reports(self, notes: tuple[str, ...] = ()) -> Iterator[Progress]:
        """Work as it is pulled: a report at the beginning, after every step, and at the end.

        Args:
            notes: For the first report.
        """
        yield self._report(notes=notes)
        writing = Writing(self._folder, Sidecars(self._pipe.spec))
        try:
            with writing:
                yield from self._sampled(writing)
        finally:
            self._record(writing)
        is_finished = self._whole == self._manifest.plan.n
        yield self._report(stopped=FINISHED if is_finished else INTERRUPTED)

    def _sampled(self, writing: Writing) -> Iterator[Progress]:
        """Sample until nothing is missing or a signal has come."""
        plan = self._manifest.plan
        missing = [shard for shard in plan.shards() if shard.number not in self._manifest.shards]
        for shard in missing:
            for images in shard.batches(plan.batch):
                steps = 0
                for event in sampling(self._pipe, images):
                    if self._interrupted():
                        return
                    if isinstance(event, Started):
                        steps = len(event.levels) - 1
                    elif isinstance(event, Stepped):
                        yield self._report(len(images) * (event.index + 1) / (steps + 1))
                    elif isinstance(event, Decoded):
                        writing.put(shard, to_pixels(event.image))
                self._made += len(images)
                self._record(writing)

    def _record(self, writing: Writing) -> None:
        """List the shards that were finished meanwhile."""
        for shard, entry in writing.finished():
            self._manifest = self._manifest.with_shard(shard.number, entry)
            self._manifest.write(self._folder)
            self._whole += entry.count

    def _report(
        self, share: float = 0.0, *, notes: tuple[str, ...] = (), stopped: str | None = None
    ) -> Progress:
        """Where the session stands.

        Args:
            share: Of the batch at hand, images.
            notes: To be told.
            stopped: Why it ends here.
        """
        return Progress(
            plan=self._manifest.plan,
            manifest=self._folder / MANIFEST,
            spec_sha256=self._manifest.identity.spec_sha256,
            whole=self._whole,
            found=self._found,
            made=self._made + share,
            elapsed_s=time.monotonic() - self._begin,
            notes=notes,
            stopped=stopped,
        )


def sampling(pipe: Pipeline, images: range) -> Iterator[Event]:
    """The events of one batch.

    Args:
        pipe: What makes it.
        images: Indices of neighbours in the run.

    Raises:
        ResourceError: Memory is short.
    """
    try:
        yield from _inferred(pipe, images)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"{len(images)} images at once do not fit into memory",
            [str(error).partition("\n")[0]],
            hint="finished shards are whole; free memory and give the same command again, or start anew with a "
            "smaller --batch",
        ) from error


@torch.inference_mode()
def _inferred(pipe: Pipeline, images: range) -> Iterator[Event]:
    """Under inference mode while it works, not while its consumer does."""
    yield from pipe.trace(len(images), offset=images.start, synchronise=False)
