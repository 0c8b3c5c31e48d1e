from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_pipelines import toy

from ldm_registry.errors import SpecError
from ldm_registry.streaming import batch_size
from ldm_registry.streaming.batch_size import Sized, fitting_batch
from ldm_registry.streaming.plan import Plan, usual_shard_size

sizes = st.integers(1, 50)


@given(st.integers(1, 300), sizes, sizes)
def test_every_image_is_in_one_batch_of_one_shard(n: int, batch: int, shard_size: int) -> None:
    plan = Plan(n, batch, shard_size)
    batches = [images for shard in plan.shards() for images in shard.batches(batch)]
    assert [index for images in batches for index in images] == list(range(n))
    assert len(list(plan.shards())) == len(plan)
    assert max(map(len, batches)) <= min(batch, shard_size)
    assert all(plan.shard(shard.number) == shard for shard in plan.shards())


@given(st.integers(1, 300), st.integers(1, 300), sizes, sizes)
def test_a_full_shard_stays_what_it_is_when_images_are_added(
    n: int, more: int, batch: int, shard_size: int
) -> None:
    before, after = Plan(n, batch, shard_size), Plan(n + more, batch, shard_size)
    for number in range(n // shard_size):
        assert before.shard(number) == after.shard(number)


@pytest.mark.parametrize(
    ("n", "batch", "image_bytes", "expected"),
    [
        (500, 8, 64 * 64 * 3, 8),
        (10_000, 32, 64 * 64 * 3, 288),
        (10**6, 64, 64 * 64 * 3, 960),
        (10**6, 8, 1024 * 1024 * 3, 80),
        (10, 64, 64 * 64 * 3, 64),
    ],
)
def test_shards_are_neither_tiny_nor_unwieldy(n: int, batch: int, image_bytes: int, expected: int) -> None:
    assert usual_shard_size(n, batch, image_bytes) == expected


@pytest.mark.parametrize("values", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (10**9 + 1, 1, 1), (1, 1, 100_001)])
def test_a_plan_that_makes_no_sense_is_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(SpecError, match="cannot be planned"):
        Plan(*values)


@pytest.mark.parametrize(
    ("image_ms", "mib", "expected"),
    [
        # gains until 8, then none: two more are tried
        ({1: 8.0, 2: 5.0, 4: 3.0, 8: 2.0, 16: 2.0, 32: 1.99, 64: 1.0}, 1.0, 8),
        # one size that gains nothing does not end the search
        ({1: 8.0, 2: 9.0, 4: 4.0, 8: 4.1, 16: 4.2, 32: 0.1}, 1.0, 4),
        # memory ends it: 16 images would take 160 of 250 MiB
        ({1: 8.0, 2: 5.0, 4: 3.0, 8: 2.0, 16: 1.0}, 10.0, 8),
    ],
)
def test_the_batch_grows_as_long_as_images_get_cheaper_and_fit(
    monkeypatch: pytest.MonkeyPatch, image_ms: dict[int, float], mib: float, expected: int
) -> None:
    monkeypatch.setattr(
        batch_size,
        "_tried",
        lambda pipe, batch, watch, free: Sized(batch, image_ms[batch], mib * batch, 250.0),
    )
    assert fitting_batch(toy(), 1000).batch == expected


def test_the_batch_is_measured_and_never_more_than_there_is_to_make() -> None:
    sized = fitting_batch(toy(), 5)
    assert sized.batch in (1, 2, 4)
    assert sized.image_ms > 0
    assert f"{sized.batch} images at once" in str(sized)
