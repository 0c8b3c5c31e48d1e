"""The statistics of one or two image sets, gathered from their shards."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ldm_registry.diagnostics.distances import gaussian_frechet_distance
from ldm_registry.engines.opening import engine
from ldm_registry.engines.outcome import Engine, Outcome
from ldm_registry.image_statistics.image_set import ShardFile, shards_of
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

    def with_shard(self, outcome: Outcome[ShardTask, Measured], *, is_other: bool) -> Gathered:
        """The same with one shard more.

        Args:
            outcome: What became of it.
            is_other: Whether it is one of the second set.
        """
        measured, done = outcome.result, self.done + 1
        if measured is None:
            unread = Unread(outcome.task.shard.path, outcome.error or "", outcome.error_lines)
            return replace(self, done=done, unread=(*self.unread, unread))
        if is_other:
            merged = (self.against or ImageStatistics()).merged(measured.statistics)
            return replace(self, done=done, against=merged)
        pairing = None if self.pairing is None else self.pairing.merged(measured.pairing)
        merged = self.statistics.merged(measured.statistics)
        return replace(self, done=done, statistics=merged, pairing=pairing)

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

    Shards are measured in any order and merged in theirs, so that the figures do not depend on who measured them, to
    the bit. A shard that cannot be read is left out and named.

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
    so_far = Gathered(
        len(tasks), against=ImageStatistics() if theirs else None, pairing=Pairing() if are_runs else None
    )
    with engine(on, address=address, workers=workers) as somebody:
        for outcome in _in_order(somebody, tasks):
            so_far = so_far.with_shard(outcome, is_other=outcome.index >= len(mine))
            yield so_far


def _in_order(somebody: Engine, tasks: Sequence[ShardTask]) -> Iterator[Outcome[ShardTask, Measured]]:
    """What became of the tasks, in their order; what is done early waits."""
    early: dict[int, Outcome[ShardTask, Measured]] = {}
    due = 0
    for outcome in somebody.outcomes(measure_shard, tasks):
        early[outcome.index] = outcome
        while due in early:
            yield early.pop(due)
            due += 1


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
        "labels": {str(label): count for label, count in statistics.labels.items()},
        "pixel_mean": pixels.mean.tolist(),
        "pixel_std": [None if math.isnan(value) else value for value in std],
        "features": {
            name: {"vectors": one.count, "dimensions": len(one.mean)}
            for name, one in statistics.features.items()
        },
    }
