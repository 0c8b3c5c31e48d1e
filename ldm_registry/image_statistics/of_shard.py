"""One shard measured: a task of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.data import ImageSet, read_images
from ldm_registry.digests import sha256
from ldm_registry.errors import DataError
from ldm_registry.image_statistics.image_set import ShardFile
from ldm_registry.image_statistics.of_images import ImageStatistics
from ldm_registry.image_statistics.pairing import Pairing


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What is to be measured.

    Attributes:
        shard: This.
        partners: Shards of another run that hold images of the same indices; its images are compared with those.
    """

    shard: ShardFile
    partners: tuple[ShardFile, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was measured.

    Attributes:
        statistics: Of the shard's images.
        pairing: Of those that have a partner.
    """

    statistics: ImageStatistics
    pairing: Pairing


def measure_shard(task: ShardTask) -> Measured:
    """Read one shard, and its partners where it has some, whole into memory.

    On one thread, so that the figures are the same to the bit wherever they are computed.

    Args:
        task: Which.

    Raises:
        NotFoundError: A file is missing.
        DataError: A file is broken, or not what its manifest says.
    """
    with _one_thread(), torch.inference_mode():
        found = _read(task.shard)
        return Measured(ImageStatistics.of(found), _paired(task, found))


def _read(shard: ShardFile) -> ImageSet:
    found = read_images(shard.path)
    if shard.sha256 is not None and sha256(shard.path) != shard.sha256:
        raise DataError(
            f"{shard.path} is not what its manifest says: its SHA-256 differs",
            hint="`ldm run` with the same words makes it again",
        )
    return found


def _paired(task: ShardTask, found: ImageSet) -> Pairing:
    mine = _by_index(task.shard, found)
    pairing = Pairing()
    for partner in task.partners:
        theirs = _by_index(partner, _read(partner))
        shared = sorted(mine.keys() & theirs.keys())
        for index in shared:
            if mine[index].shape != theirs[index].shape:
                sizes = " and ".join("{1} x {2}".format(*one[index].shape) for one in (mine, theirs))
                raise DataError(f"image {index} is {sizes} pixels in {task.shard.path} and {partner.path}")
        if shared:
            made, other = (torch.stack([one[index] for index in shared]) for one in (mine, theirs))
            pairing = pairing.merged(Pairing.of(made, other))
    return pairing


def _by_index(shard: ShardFile, found: ImageSet) -> dict[int, Tensor]:
    """Images by their index in the run."""
    if shard.images is None:
        return {}
    if len(shard.images) != len(found):
        raise DataError(
            f"{shard.path} holds {len(found)} images; its manifest says {len(shard.images)}",
            hint="`ldm run` with the same words makes it again",
        )
    return dict(zip(shard.images, found.images, strict=True))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
