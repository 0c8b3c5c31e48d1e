"""The statistics of one or two image sets, gathered from their shards."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from ldm_registry.diagnostics.distances import gaussian_frechet_distance
from ldm_registry.engines.opening import engine
from ldm_registry.engines.outcome import Outcome
from ldm_registry.image_statistics.image_set import ShardFile, shards_of
from ldm_registry.image_statistics.in_any_order import InAnyOrder
from ldm_registry.image_statistics.of_images import ImageStatistics
from ldm_registry.image_statistics.of_shard import Measured, ShardTask, measure_shard
from ldm_registry.image_statistics.pairing import Pairing


@dataclass(frozen=True, slots=True)
class Unread:
    """A shard that could not be measured.

    Attributes:
        path: Its file.
        error: Why, on one line.
        lines: Details and advice.
    """

    path: Path
    error: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Of one set, and of another that it is compared with.

    Attributes:
        shards: How many there are, of both.
        done: How many were looked at.
        statistics: Of the shards of the first that could be read.
        against: Of the second; None where there is none.
        pairing: Of images of one index in both; None where the two are not runs.
        unread: Shards of either that could not be measured.
    """

    shards: int
    done: int = 0
    statistics: ImageStatistics = field(default_factory=ImageStatistics)
    against: ImageStatistics | None = None
    pairing: Pairing | None = None
    unread: tuple[Unread, ...] = ()

    def frechet_distances(self) -> dict[str, float]:
        """Squared Fréchet distance of the two sets by features; those whose sets hold fewer than two are left out."""
        if self.against is None:
            return {}
        return {
            name: gaussian_frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
            for name, one in self.statistics.features.items()
            if (other := self.against.features.get(name)) is not None and min(one.count, other.count) > 1
        }

    def to_document(self) -> dict[str, Any]:
        """For JSON; means and standard deviations of pixels are in [-1, 1]."""
        document: dict[str, Any] = {"shards": self.shards, **_described(self.statistics)}
        if self.against is not None:
            document["against"] = _described(self.against)
            document["frechet_distance"] = self.frechet_distances()
        if self.pairing is not None:
            document["pairs"] = self.pairing.to_document()
        document["unread"] = [
            {"file": str(one.path), "error": one.error, "problems": list(one.lines)} for one in self.unread
        ]
        return document


def statistics_of(
    source: str | Path,
    against: str | Path | None = None,
    *,
    on: str | None = None,
    address: str | None = None,
    workers: int | None = None,
) -> Gathered:
    """Statistics of an image set, or of two; arguments and errors as for `gathering`, of which this is the end."""
    *_, last = gathering(source, against, on=on, address=address, workers=workers)
    return last


def gathering(
    source: str | Path,
    against: str | Path | None = None,
    *,
    on: str | None = None,
    address: str | None = None,
    workers: int | None = None,
) -> Iterator[Gathered]:
    """Statistics of image sets of any size: a worker holds one shard, and those that it is compared with.

    Shards are measured in any order and merged by their places alone, so that the figures do not depend on who measured
    them, to the bit. A shard that cannot be read is left out and named.

    Args:
        source: The folder of a streamed run, a folder of WebDataset tars, or one tar.
        against: Another one. Where both are runs, images of one index are compared too.
        on: As `engines.engine`.
        address: As `engines.engine`.
        workers: As `engines.engine`.

    Yields:
        What there is after each shard.

    Raises:
        NotFoundError: There are no images.
        LdmError: As `engines.engine`.
    """
    mine = shards_of(Path(source))
    theirs = () if against is None else shards_of(Path(against))
    are_runs = bool(theirs) and all(shard.images is not None for shard in (*mine, *theirs))
    tasks = [ShardTask(shard, _partners(shard, theirs) if are_runs else ()) for shard in mine]
    tasks += [ShardTask(shard) for shard in theirs]
    collected = _Collected(len(mine), len(theirs), are_runs=are_runs)
    with engine(on, address=address, workers=workers) as somebody:
        for outcome in somebody.outcomes(measure_shard, tasks):
            collected.take(outcome)
            yield collected.so_far()


@final
class _Collected:
    """What became of the tasks until now."""

    def __init__(self, mine: int, theirs: int, *, are_runs: bool) -> None:
        self._mine, self._theirs, self._are_runs = mine, theirs, are_runs
        self._done = 0
        self._first, self._second = InAnyOrder(Measured.merged), InAnyOrder(Measured.merged)
        self._unread: dict[int, Unread] = {}

    def take(self, outcome: Outcome[ShardTask, Measured]) -> None:
        self._done += 1
        if outcome.result is None:
            unread = Unread(outcome.task.shard.path, outcome.error or "", outcome.error_lines)
            self._unread[outcome.index] = unread
        # A leaf all the same: otherwise who is merged with whom would depend on what is missing.
        measured = outcome.result or Measured()
        if outcome.index < self._mine:
            self._first.add(outcome.index, measured)
        else:
            self._second.add(outcome.index - self._mine, measured)

    def so_far(self) -> Gathered:
        first, second = self._first.total(Measured()), self._second.total(Measured())
        return Gathered(
            self._mine + self._theirs,
            self._done,
            first.statistics,
            second.statistics if self._theirs else None,
            first.pairing if self._are_runs else None,
            tuple(unread for _, unread in sorted(self._unread.items())),
        )


def _partners(shard: ShardFile, others: Sequence[ShardFile]) -> tuple[ShardFile, ...]:
    """Those of another run, in order, that hold images of the same indices."""
    assert shard.images is not None
    first = bisect_right(others, shard.images.start, key=lambda other: _indices(other).stop)
    end = bisect_left(others, shard.images.stop, key=lambda other: _indices(other).start)
    return tuple(others[first:end])


def _indices(shard: ShardFile) -> range:
    assert shard.images is not None
    return shard.images


def _described(statistics: ImageStatistics) -> dict[str, Any]:
    pixels = statistics.pixels
    std = pixels.covariance.diagonal().sqrt().tolist() if pixels.count > 1 else []
    return {
        "images": statistics.images,
        "sizes": {f"{height} x {width}": count for (height, width), count in statistics.sizes.items()},
        "labels": {str(label): count for label, count in statistics.labels.items()},
        "pixel_mean": pixels.mean.tolist(),
        "pixel_std": [None if math.isnan(value) else value for value in std],
        "features": {
            name: {"vectors": one.count, "dimensions": len(one.mean)}
            for name, one in statistics.features.items()
        },
    }
