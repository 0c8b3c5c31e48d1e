"""Values that arrive in any order are put together in one."""

from __future__ import annotations

import math
import operator

from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_registry.image_statistics.in_any_order import InAnyOrder

EXAMPLES = settings(max_examples=100, derandomize=True, deadline=None)


@EXAMPLES
@given(st.integers(0, 40).flatmap(lambda count: st.permutations(range(count))))
def test_the_order_of_arrival_does_not_matter_to_the_bit(arrival: list[int]) -> None:
    sums, names = InAnyOrder[float](operator.add), InAnyOrder[str](operator.add)
    straight = InAnyOrder[float](operator.add)
    for index in range(len(arrival)):
        straight.add(index, math.sin(index) * 10.0 ** (index % 7))
    for index in arrival:
        sums.add(index, math.sin(index) * 10.0 ** (index % 7))
        names.add(index, f"{index},")
    assert sums.total(0.0) == straight.total(0.0)
    assert names.total("") == "".join(f"{index}," for index in range(len(arrival)))


@EXAMPLES
@given(st.integers(2, 5000), st.integers(0, 4999))
def test_one_that_is_late_does_not_make_the_others_pile_up(count: int, late: int) -> None:
    found = InAnyOrder[int](operator.add)
    for index in range(count):
        if index != late % count:
            found.add(index, 1)
        assert len(found) <= 2 * math.ceil(math.log2(count))
    assert found.total(0) == count - 1
