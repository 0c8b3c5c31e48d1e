from __future__ import annotations

import math

import pytest
import torch

from ldm_registry.costs import repeated
from ldm_registry.costs.ceiling import Ceiling, measured
from ldm_registry.costs.growth import exponent
from ldm_registry.costs.operations import Work
from ldm_registry.costs.repeated import MOST, MOST_AT_ONCE, Times, held, timed
from ldm_registry.costs.resident_memory import resident_mib
from ldm_registry.costs.stopwatch import Stopwatch, WallClock


class Queue(Stopwatch):
    """Marks are known only when the queue was worked through; every call adds a millisecond more than the last."""

    clock, memory = "a queue", "nothing"

    def __init__(self) -> None:
        self.asked, self.settled, self.waited = 0, -1, list[int]()

    def mark(self) -> int:
        self.asked += 1
        return self.asked

    def settle(self) -> None:
        self.waited.append(self.asked - max(self.settled, 0))
        self.settled = self.asked

    def elapsed_ms(self, start: int, end: int) -> float:
        assert max(start, end) <= self.settled, "asked before the queue was waited for"
        return float(end)

    def forget_peak(self) -> None: ...

    def peak_mib(self) -> None:
        return None


def test_a_time_has_a_median_and_quartiles() -> None:
    times = Times.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (times.low_ms, times.median_ms, times.high_ms, times.best_ms, times.calls) == (2, 3, 4, 1, 5)
    assert times.spread == pytest.approx(1 / 3)
    assert times.over(10).median_ms == pytest.approx(0.3)
    assert times.over(10).spread == pytest.approx(1 / 3)
    assert Times.of([2.0]).spread is None


def test_on_a_queue_several_calls_are_asked_for_before_it_is_waited_for() -> None:
    queue, made = Queue(), list[int]()
    times = timed(lambda: made.append(queue.asked), queue, seconds=0.0, least=40)
    assert len(made) == times.calls >= 40
    # Two marks for each call; the batches grow.
    assert queue.waited[:4] == [2, 4, 8, 16]
    assert max(queue.waited) == 2 * MOST_AT_ONCE


def test_a_call_is_made_a_few_times_unless_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(lambda: None, WallClock(), seconds=0.0).calls >= 3
    assert timed(lambda: None, WallClock(), seconds=1.0).calls == MOST
    monkeypatch.setattr(repeated, "PATIENCE_S", 0.0)
    assert timed(lambda: None, WallClock(), seconds=0.0).calls == 1


@pytest.mark.skipif(resident_mib() is None, reason="the system does not count resident memory")
def test_memory_is_what_a_call_takes_above_what_was_there() -> None:
    kept = torch.ones(8 * 2**20)
    found = [held(lambda: kept + kept, WallClock()) for _ in range(2)]
    for memory in found:
        assert memory is not None
        assert memory.working_mib == pytest.approx(32.0, abs=2.0)
        assert memory.peak_mib > 64.0
    assert held(lambda: None, Queue()) is None


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 0.5])
def test_the_exponent_of_a_power_law_is_its_power(power: float) -> None:
    assert exponent((x, 7 * x**power) for x in (1.0, 2.0, 8.0, 9.0)) == pytest.approx(power)


def test_an_exponent_through_noise_lies_between_those_of_its_pairs() -> None:
    found = exponent([(1.0, 1.0), (2.0, 2.4), (4.0, 4.0)])
    assert found is not None
    assert math.log2(4.0 / 2.4) < found < math.log2(2.4)


def test_there_is_no_exponent_where_nothing_grows() -> None:
    assert exponent([(2.0, 5.0)]) is None
    assert exponent([(2.0, 5.0), (2.0, 6.0)]) is None
    assert exponent([(1.0, 0.0), (2.0, 3.0)]) is None


def test_the_least_time_of_some_work_is_that_of_its_operations_at_their_own_best_rates() -> None:
    ceiling = Ceiling("cpu", "float32", 1e9, 4e9, 2e9)
    assert ceiling.compute_ms(Work(4_000_000, 1_000_000, 0)) == pytest.approx(2.0)
    assert ceiling.copy_ms(Work(0, 0, 2_000_000)) == pytest.approx(1.0)
    lacking = Ceiling("cpu", "float32", None, 4e9, 2e9)
    assert lacking.compute_ms(Work(4_000_000, 0, 0)) == pytest.approx(1.0)
    assert lacking.compute_ms(Work(0, 1, 0)) is None


def test_a_type_that_a_device_cannot_compute_with_has_no_rate_but_can_be_copied() -> None:
    found = measured(torch.device("cpu"), torch.bool, 0.0)
    assert (found.matmul_flop_s, found.convolution_flop_s) == (None, None)
    assert found.copy_byte_s > 1e6
    assert found.dtype == "bool"
