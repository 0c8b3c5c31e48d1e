"""One shard measured: a task of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm_registry.data import ImageSet, read_images
from ldm_registry.digests import sha256
from ldm_registry.errors import DataError, NotFoundError
from ldm_registry.image_statistics.image_set import ShardFile
from ldm_registry.image_statistics.of_images import CHUNK_VALUES, ImageStatistics
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

    statistics: ImageStatistics = field(default_factory=ImageStatistics)
    pairing: Pairing = field(default_factory=Pairing)

    def merged(self, other: Measured) -> Measured:
        """Of the shards of both.

        Args:
            other: Of other shards.
        """
        return Measured(self.statistics.merged(other.statistics), self.pairing.merged(other.pairing))


def measure_shard(task: ShardTask) -> Measured:
    """Read one shard, and its partners one after the other where it has some, whole into memory.

    On one thread, so that the figures are the same to the bit wherever they are computed. A partner that cannot be read
    takes only its pairs away: the shard itself is measured, and the partner's own task says what is wrong.

    Args:
        task: Which.

    Raises:
        NotFoundError: The file is missing.
        DataError: It is broken, or not what its manifest says.
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
        pairing = pairing.merged(_paired_with(partner, mine))
    return pairing


def _paired_with(partner: ShardFile, mine: Mapping[int, Tensor]) -> Pairing:
    try:
        theirs = _by_index(partner, _read(partner))
    except (NotFoundError, DataError, OSError):
        return Pairing(unread=sum(index in (partner.images or ()) for index in mine))
    shared = sorted(mine.keys() & theirs.keys())
    alike = [index for index in shared if mine[index].shape == theirs[index].shape]
    pairing = Pairing(unlike=len(shared) - len(alike))
    together = max(1, CHUNK_VALUES // mine[alike[0]].numel()) if alike else 1
    for start in range(0, len(alike), together):
        part = alike[start : start + together]
        made, other = (torch.stack([one[index] for index in part]) for one in (mine, theirs))
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
