"""Make many images as shards, in as many sessions as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ldm_registry.errors import SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.streaming.folder import claimed
from ldm_registry.streaming.progress import Progress
from ldm_registry.streaming.resuming import Wish, prepared
from ldm_registry.streaming.session import Session
from ldm_registry.training.interruption import interruption


def stream(
    pipe: Pipeline,
    n: int,
    folder: str | Path,
    *,
    batch: int | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
) -> Iterator[Progress]:
    """Make images as WebDataset shards. The work is done as the reports are pulled.

    Image i follows from the spec, the weights and i. Images that are made together are neighbours within a shard, so
    the same arguments give the same bytes however often a run was stopped: by closing the iterator, by SIGINT or
    SIGTERM, which end it after the step at hand, or by the end of the process. A call with the same arguments goes on.

    Args:
        pipe: What makes them; seed and condition are those of its spec.
        n: How many. More than in an earlier session add to it.
        folder: New, empty, or that of an earlier session.
        batch: Images at once; None takes the earlier session's, else measures what fits.
        shard_size: Images in a shard; None takes the earlier session's, else a multiple of the batch that makes about
            32 shards of at most 1000 images.
        overwrite: Replace the run of another spec, batch or size, and write beside files that no run wrote.

    Yields:
        Where the run stands, after every step, and at the end with `stopped` set.

    Raises:
        SpecError: The folder holds another run, whose differences are named, or something else, or is in use; or the
            images are neither grey nor RGB.
        ResourceError: The disk is full or memory is short. Finished shards are whole.
    """
    folder, channels = Path(folder), pipe.spec.image.channels
    if channels not in (1, 3):
        raise SpecError(f"an image of {channels} channels is no PNG; shards hold grey or RGB images")
    with claimed(folder, overwrite=overwrite), interruption() as interrupted:
        wish = Wish(n, batch, shard_size)
        manifest, notes = prepared(pipe, wish, folder, overwrite=overwrite, interrupted=interrupted)
        yield from Session(pipe, folder, manifest, interrupted).reports(notes)
