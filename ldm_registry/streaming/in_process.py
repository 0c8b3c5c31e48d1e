"""Shards made by this process, one after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch

from ldm_registry.errors import ResourceError
from ldm_registry.pipeline import Decoded, Event, Pipeline, Started, Stepped
from ldm_registry.report.timing import to_pixels
from ldm_registry.streaming.batch_size import Sized, fitting_batch, is_out_of_memory
from ldm_registry.streaming.identity import surroundings
from ldm_registry.streaming.making import Made, Maker
from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Plan, Shard
from ldm_registry.streaming.shard_file import Sidecars
from ldm_registry.streaming.writing import Writing


@final
class InProcess(Maker):
    """Samples in this process while a thread writes.

    Args:
        pipe: What makes the images.
        folder: Where to.
    """

    def __init__(self, pipe: Pipeline, folder: Path) -> None:
        self._pipe = pipe
        self._writing = Writing(folder, Sidecars(pipe.spec))

    def surroundings(self) -> Mapping[str, Any]:
        """Of this process."""
        return surroundings()

    def fitting_batch(self, n: int) -> Sized:
        """As `batch_size.fitting_batch`."""
        return fitting_batch(self._pipe, n)

    def making(self, plan: Plan, missing: Sequence[Shard]) -> Generator[Made, None, None]:
        """As `Maker.making`; tells of every step. At its end everything that was sampled is written."""
        before = 0
        with self._writing as writing:
            for shard in missing:
                for made in sampled(self._pipe, shard, plan.batch, writing):
                    yield Made(before + made)
                before += len(shard.images)

    def finished(self) -> list[tuple[Shard, Entry]]:
        """As `Maker.finished`."""
        return self._writing.finished()


def sampled(pipe: Pipeline, shard: Shard, batch: int, writing: Writing) -> Iterator[float]:
    """Make the images of a shard and hand them over to be written.

    Args:
        pipe: What makes them.
        shard: Which ones.
        batch: Images at once.
        writing: Takes them.

    Yields:
        After every step and every batch, the images made so far, with the share of the batch at hand.

    Raises:
        ResourceError: Memory is short, or earlier images could not be written.
    """
    for images in shard.batches(batch):
        before, steps = images.start - shard.images.start, 0
        for event in _sampling(pipe, images):
            if isinstance(event, Started):
                steps = len(event.levels) - 1
            elif isinstance(event, Stepped):
                yield before + len(images) * (event.index + 1) / (steps + 1)
            elif isinstance(event, Decoded):
                writing.put(shard, to_pixels(event.image))
        yield before + len(images)


def _sampling(pipe: Pipeline, images: range) -> Iterator[Event]:
    """The events of one batch, of neighbours in the run."""
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
