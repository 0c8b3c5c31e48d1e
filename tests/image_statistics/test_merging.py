"""Merged statistics are those of one pass over everything."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldm_registry.data import ImageSet
from ldm_registry.image_statistics import Gaussian, ImageStatistics, Pairing, Spread

TOLERANCE = 1e-10
EXAMPLES = settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def drawn(count: int, size: int, seed: int, offset: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return offset + scale * torch.randn(count, size, generator=generator, dtype=torch.float64) @ mixing


def close(got: Tensor, expected: Tensor, scale: float | None = None) -> None:
    largest = float(expected.abs().max()) if scale is None else scale
    assert float((got - expected).abs().max()) <= TOLERANCE * largest


@EXAMPLES
@given(
    st.integers(2, 60),
    st.integers(1, 6),
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_gaussian_of_parts_is_that_of_the_whole(
    count: int, size: int, cuts: list[int], seed: int, backwards: bool
) -> None:
    x = drawn(count, size, seed)
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    parts = [x[start:stop] for start, stop in pairwise(edges)]
    made = [Gaussian.of(part) for part in (parts[::-1] if backwards else parts)]
    merged = reduce(Gaussian.merged, made)
    assert merged.count == count
    close(merged.mean, torch.from_numpy(numpy.mean(x.numpy(), axis=0)), 1.0)
    close(merged.covariance, torch.from_numpy(numpy.atleast_2d(numpy.cov(x.numpy(), rowvar=False))))


def test_merging_is_associative_and_nothing_is_neutral() -> None:
    one, two, three = (Gaussian.of(drawn(count, 4, seed=count)) for count in (3, 1, 7))
    left, right = one.merged(two).merged(three), one.merged(two.merged(three))
    close(left.mean, right.mean)
    close(left.scatter, right.scatter)
    assert one.merged(Gaussian.none(4)) is one
    assert Gaussian.none(4).merged(one) is one


def test_a_small_spread_around_a_large_mean_keeps_its_digits() -> None:
    exact = drawn(400, 3, seed=5, scale=2.0**-10)
    # Dyadic numbers, so that adding the offset rounds nothing away.
    exact = (exact * 2**30).round() / 2**30
    whole, shifted = Gaussian.of(exact), [Gaussian.of(part + 2.0**10) for part in exact.split(37)]
    close(reduce(Gaussian.merged, shifted).covariance, whole.covariance)


@pytest.mark.parametrize("parts", [1, 7, 100])
def test_a_mean_of_a_million_and_a_spread_of_a_thousandth_give_what_numpy_gives_in_one_pass(
    parts: int,
) -> None:
    x = drawn(1000, 3, seed=9, offset=1e6, scale=1e-3)
    merged = reduce(Gaussian.merged, map(Gaussian.of, x.tensor_split(parts)))
    exact = x.numpy().astype(numpy.longdouble)
    centred = exact - exact.mean(0)
    close(merged.covariance, torch.from_numpy((centred.T @ centred / 999).astype(numpy.float64)))
    close(merged.covariance, torch.from_numpy(numpy.cov(x.numpy(), rowvar=False)))
    close(merged.mean, torch.from_numpy(x.numpy().mean(0)))


def test_fewer_than_two_vectors_have_no_covariance() -> None:
    assert bool(Gaussian.of(torch.ones(1, 2)).covariance.isnan().all())


@EXAMPLES
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40),
    st.integers(0, 40),
)
def test_a_spread_of_parts_is_that_of_the_whole(values: list[float], cut: int) -> None:
    merged = Spread.of(values[:cut]).merged(Spread.of(values[cut:]))
    assert merged.count == len(values)
    size = max(1.0, max(map(abs, values)))
    assert merged.mean == pytest.approx(numpy.mean(values), abs=TOLERANCE * size)
    assert merged.std == pytest.approx(numpy.std(values, ddof=1), abs=TOLERANCE * size)
    assert (merged.least, merged.largest) == (min(values), max(values))


def some_images(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 16, 12), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (count,), generator=generator)
    return ImageSet(images, labels, tuple(map(str, range(count))))


def some(found: ImageSet, rows: slice) -> ImageSet:
    return ImageSet(found.images[rows], found.labels[rows], found.names[rows])


def test_statistics_of_shards_are_those_of_all_their_images() -> None:
    found = some_images(23, seed=1)
    whole = ImageStatistics.of(found)
    parts = [slice(0, 9), slice(9, 9), slice(9, 10), slice(10, 23)]
    merged = reduce(ImageStatistics.merged, (ImageStatistics.of(some(found, rows)) for rows in parts))
    assert merged.images == 23
    assert merged.labels == whole.labels
    assert sum(merged.labels.values()) == 23
    close(merged.pixels.mean, whole.pixels.mean)
    close(merged.pixels.covariance, whole.pixels.covariance)
    for name, one in whole.features.items():
        close(merged.features[name].mean, one.mean)
        close(merged.features[name].covariance, one.covariance)
    unit = found.images.double() / 127.5 - 1
    close(merged.pixels.mean, unit.mean((0, 2, 3)))


def test_pairs_of_shards_are_those_of_all_their_images() -> None:
    made, other = some_images(12, seed=2).images, some_images(12, seed=3).images
    other[:4] = made[:4]
    other[4] = made[4] ^ 1  # one level, everywhere
    whole = Pairing.of(made, other)
    merged = Pairing.of(made[:5], other[:5]).merged(Pairing()).merged(Pairing.of(made[5:], other[5:]))
    assert (merged.images, merged.equal, merged.beyond_one_level) == (12, 4, 7)
    for name in ("psnr_db", "squared_error", "absolute_error", "ssim"):
        one, all_at_once = getattr(merged, name), getattr(whole, name)
        assert one.count == all_at_once.count
        assert one.mean == pytest.approx(all_at_once.mean, rel=TOLERANCE)
        assert one.squares == pytest.approx(all_at_once.squares, rel=TOLERANCE)
    assert merged.psnr_db.largest == pytest.approx(20 * math.log10(255))
    error = (made.double() - other.double()).square().mean((1, 2, 3))
    assert merged.squared_error.mean == pytest.approx(float(error.mean()), rel=TOLERANCE)
