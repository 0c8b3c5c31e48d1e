"""Who makes shards: this process, or workers elsewhere. A session records what they finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldm_registry.streaming.batch_size import Sized
from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Plan, Shard


@dataclass(frozen=True, slots=True)
class Made:
    """What has come of the work so far.

    Attributes:
        images: Of this session, those of unfinished shards and the share of unfinished batches included.
        notes: What a reader should know; each is told once.
        surroundings: Versions and machine of workers that have just joined.
    """

    images: float
    notes: tuple[str, ...] = ()
    surroundings: tuple[Mapping[str, Any], ...] = ()


class Maker(ABC):
    """Makes shards and writes them."""

    @abstractmethod
    def surroundings(self) -> Mapping[str, Any] | None:
        """Versions and machine on which shards are going to be made; None where workers tell when they join."""

    @abstractmethod
    def fitting_batch(self, n: int) -> Sized:
        """How many images at once, measured where they are going to be made.

        Args:
            n: Images that are wanted; no batch is larger.

        Raises:
            ResourceError: There is no memory for a single image.
        """

    @abstractmethod
    def making(self, plan: Plan, missing: Sequence[Shard]) -> Generator[Made, None, None]:
        """Make shards; closing the iterator stops that, as far as it has come.

        Args:
            plan: Which images belong together.
            missing: What to make.

        Raises:
            ResourceError: The disk is full or memory is short.
        """

    @abstractmethod
    def finished(self) -> list[tuple[Shard, Entry]]:
        """The shards that were finished since this was asked last; also to be asked when the making is over."""
