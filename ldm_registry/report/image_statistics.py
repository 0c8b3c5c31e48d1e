"""The statistics of image sets on one screen."""

from __future__ import annotations

from collections.abc import Iterator

from ldm_registry.image_statistics.gathered import Gathered
from ldm_registry.image_statistics.of_images import ImageStatistics
from ldm_registry.image_statistics.pairing import Pairing
from ldm_registry.image_statistics.spread import Spread
from ldm_registry.report.tables import table

MOST_LABELS = 12
MOST_UNREAD = 8
MOST_SIZES = 3


def render(gathered: Gathered) -> str:
    """Counts, colours and distances for a reader.

    Args:
        gathered: What was measured.
    """
    return "\n".join(_lines(gathered))


def _lines(gathered: Gathered) -> Iterator[str]:
    mine, other = gathered.statistics, gathered.against
    read = gathered.shards - len(gathered.unread)
    beside = f" against {other.images:,}" if other else ""
    yield f"{mine.images:,} images{beside}, {read:,} of {gathered.shards:,} shards read"
    if len(sizes := _sizes([mine, other or mine])) > 1:
        yield f"of different sizes ({', '.join(sizes)} pixels): features depend on the size, too"
    sets = [mine] if other is None else [mine, other]
    names = ["images", "against"]
    yield ""
    rows = [[name, *_colours(one)] for name, one in zip(names, sets, strict=False)]
    yield table(["", "mean of red", "green", "blue", "std of red", "green", "blue"], rows, right=range(1, 7))
    yield ""
    yield from _labels(sets)
    if other is not None:
        yield from _distances(gathered)
    if gathered.pairing is not None:
        yield from _pairs(gathered.pairing)
    if gathered.unread:
        yield ""
        yield f"not read, and left out: {len(gathered.unread)}"
        for one in gathered.unread[:MOST_UNREAD]:
            yield f"  {one.error}"
            yield from (f"    {line}" for line in one.lines)
        if len(gathered.unread) > MOST_UNREAD:
            yield f"  and {len(gathered.unread) - MOST_UNREAD} more (--json names them)"


def _colours(one: ImageStatistics) -> list[str]:
    pixels = one.pixels
    if pixels.count < 2:
        return ["-"] * 6
    std = pixels.covariance.diagonal().sqrt()
    return [f"{float(value):.4f}" for value in (*pixels.mean, *std)]


def _labels(sets: list[ImageStatistics]) -> Iterator[str]:
    labels = sorted({label for one in sets for label in one.labels})
    rows = [
        [str(label), *(f"{one.labels.get(label, 0):,}" for one in sets)] for label in labels[:MOST_LABELS]
    ]
    yield table(["label", "images", "against"][: 1 + len(sets)], rows, right=range(1, 3))
    if len(labels) > MOST_LABELS:
        yield f"and {len(labels) - MOST_LABELS} labels more (--json has them all)"


def _distances(gathered: Gathered) -> Iterator[str]:
    distances = gathered.frechet_distances()
    yield ""
    if not distances:
        yield "no Fréchet distance: it takes two images of either set"
        return
    rows = [
        [name, str(len(gathered.statistics.features[name].mean)), f"{value:.5g}"]
        for name, value in distances.items()
    ]
    yield table(["features", "dimensions", "squared Fréchet distance"], rows, right=(1, 2))
    for name, dimensions, count in _too_few(gathered):
        yield f"{name}: {count:,} vectors of {dimensions} dimensions are too few; most of the distance is chance."
    yield "These rank sets of one size within one project; they are no FID, whose features come from Inception."


def _sizes(sets: list[ImageStatistics]) -> list[str]:
    """Height x width, at most three and a remainder."""
    found = [f"{height} x {width}" for height, width in sorted({size for one in sets for size in one.sizes})]
    return found if len(found) <= MOST_SIZES else [*found[:MOST_SIZES], "..."]


def _too_few(gathered: Gathered) -> Iterator[tuple[str, int, int]]:
    """Features whose covariance is singular for want of vectors: name, dimensions, vectors of the smaller set."""
    for name in gathered.frechet_distances():
        one = gathered.statistics.features[name]
        assert gathered.against is not None
        count = min(one.count, gathered.against.features[name].count)
        if count <= len(one.mean):
            yield name, len(one.mean), count


def _pairs(pairing: Pairing) -> Iterator[str]:
    yield ""
    yield (
        f"{pairing.images:,} images of one index in both: {pairing.equal:,} equal, "
        f"{pairing.beyond_one_level:,} differ by more than one of 256 levels"
    )
    if pairing.unread:
        yield f"{pairing.unread:,} more have their partner in a shard that could not be read"
    if pairing.unlike:
        yield f"{pairing.unlike:,} more differ from their partner in size, and were not compared"
    figures = (
        ("PSNR of those that differ, dB", pairing.psnr_db),
        ("mean absolute error, levels", pairing.absolute_error),
        ("SSIM", pairing.ssim),
    )
    rows = [[name, *_range(spread)] for name, spread in figures if spread.count]
    if rows:
        yield table(["", "mean", "std", "least", "largest"], rows, right=range(1, 5))


def _range(spread: Spread) -> list[str]:
    values = (spread.mean, spread.std, spread.least, spread.largest)
    return ["-" if value != value else f"{value:.4g}" for value in values]
