"""Make many images as shards, in as many sessions as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ldm_registry.engines.opening import runs_on_ray
from ldm_registry.errors import SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.streaming.folder import claimed
from ldm_registry.streaming.identity import identity_of
from ldm_registry.streaming.in_process import InProcess
from ldm_registry.streaming.making import Maker
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
    on: str | None = None,
    address: str | None = None,
    workers: int | None = None,
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
        on: None or "here" makes the images in this process. "ray" has workers on Ray make them, each of which assembles
            the pipeline's spec for itself; the pipeline given tells what their parts have to hold. The folder has to be
            one that all machines share.
        address: Of the head of a Ray cluster, `HOST:PORT` or `auto`; None is RAY_ADDRESS, else a Ray on this machine.
        workers: On Ray, at most; None is one for each GPU, or for each core.

    Yields:
        Where the run stands, after every step, on Ray about once a second, and at the end with `stopped` set.

    Raises:
        SpecError: The folder holds another run, whose differences are named, or something else, or is in use; the
            images are neither grey nor RGB; or Ray is not installed.
        NetworkError: No Ray cluster answers at the address.
        PluginError: A node of it runs other versions.
        CheckpointError: A worker finds other weights than the pipeline has.
        ResourceError: The disk is full or memory is short. Finished shards are whole.
    """
    folder, channels = Path(folder), pipe.spec.image.channels
    if channels not in (1, 3):
        raise SpecError(f"an image of {channels} channels is no PNG; shards hold grey or RGB images")
    on_cluster = runs_on_ray(on, address=address, workers=workers)
    with claimed(folder, overwrite=overwrite), interruption() as interrupted:
        identity = identity_of(pipe)
        maker: AbstractContextManager[Maker] = nullcontext(InProcess(pipe, folder))
        if on_cluster:
            from ldm_registry.streaming.on_ray import on_ray

            maker = on_ray(pipe.spec, identity, folder, address=address, workers=workers)
        with maker as entered:
            manifest, notes = prepared(
                identity,
                pipe.spec.image,
                Wish(n, batch, shard_size),
                folder,
                entered,
                overwrite=overwrite,
                interrupted=interrupted,
            )
            yield from Session(entered, folder, manifest, interrupted).reports(notes)
