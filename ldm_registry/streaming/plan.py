"""Which images a shard holds, and which of them are made together: told by indices alone, not by who makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ldm_registry.errors import SpecError

MAX_IMAGES = 10**9
MAX_SHARD_SIZE = 100_000
"""Images; what a reader of image sets accepts in one tar."""
USUAL_SHARDS = 32
"""An interrupted run loses half a shard on average: so many of them keep that below two percent."""
USUAL_SHARD_SIZE = 1000
USUAL_SHARD_BYTES = 256 * 2**20
"""Of pixels that are not compressed."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar.

    Attributes:
        number: 0 for the first.
        images: Indices of the images that it holds.
    """

    number: int
    images: range

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"images-{self.number:06d}.tar"

    def batches(self, batch: int) -> Iterator[range]:
        """Indices of the images that are made together; the last ones may be fewer.

        Args:
            batch: Images at once.
        """
        for start in range(self.images.start, self.images.stop, batch):
            yield range(start, min(start + batch, self.images.stop))


@dataclass(frozen=True, slots=True)
class Plan:
    """A run.

    Attributes:
        n: Images.
        batch: Images that are made together.
        shard_size: Images in a shard; the last one may hold fewer.
    """

    n: int
    batch: int
    shard_size: int

    def __post_init__(self) -> None:
        limits = {"n": MAX_IMAGES, "batch": MAX_SHARD_SIZE, "shard_size": MAX_SHARD_SIZE}
        problems = [
            f"{name} is {getattr(self, name)}; expected 1 to {most}"
            for name, most in limits.items()
            if not 1 <= getattr(self, name) <= most
        ]
        if problems:
            raise SpecError("such a run cannot be planned", problems)

    def __len__(self) -> int:
        return -(-self.n // self.shard_size)

    def shard(self, number: int) -> Shard:
        """One shard by its number, 0 for the first."""
        start = number * self.shard_size
        return Shard(number, range(start, min(start + self.shard_size, self.n)))

    def shards(self) -> Iterator[Shard]:
        """All of them, in order."""
        return map(self.shard, range(len(self)))


def usual_shard_size(n: int, batch: int, image_bytes: int) -> int:
    """A size that loses little where a run is interrupted, and makes neither tiny nor unwieldy files.

    Args:
        n: Images of the run.
        batch: Images at once; the size is a multiple of it.
        image_bytes: Of one image, not compressed.

    Returns:
        Images.
    """
    wanted = min(n // USUAL_SHARDS, USUAL_SHARD_SIZE, USUAL_SHARD_BYTES // image_bytes)
    return batch * max(1, wanted // batch)
