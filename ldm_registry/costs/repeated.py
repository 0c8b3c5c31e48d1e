"""Time and memory of something that can be done again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from ldm_registry.costs.stopwatch import Stopwatch, WallClock
from ldm_registry.runtime.heap import return_freed

LEAST, MOST = 3, 200
"""Calls."""
PATIENCE_S = 20.0
"""After which fewer calls than `LEAST` have to do; one is always made."""
MOST_AT_ONCE = 16
"""Calls that are asked for before a device's queue is waited for."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long one call takes.

    Attributes:
        median_ms: Milliseconds.
        low_ms: First quartile.
        high_ms: Third quartile.
        best_ms: The shortest.
        calls: How many were timed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    best_ms: float
    calls: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Self:
        """Of at least one time."""
        if len(times_ms) == 1:
            return cls(times_ms[0], times_ms[0], times_ms[0], times_ms[0], 1)
        low, median, high = statistics.quantiles(times_ms, n=4, method="inclusive")
        return cls(median, low, high, min(times_ms), len(times_ms))

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles over the median; None where one call was timed alone."""
        return (
            (self.high_ms - self.low_ms) / 2 / self.median_ms if self.calls > 1 and self.median_ms else None
        )

    def over(self, count: int) -> Self:
        """The time of one of so many equal shares of a call."""
        return type(self)(
            self.median_ms / count,
            self.low_ms / count,
            self.high_ms / count,
            self.best_ms / count,
            self.calls,
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """The most that was held during a call.

    Attributes:
        peak_mib: With all else that was there.
        working_mib: Above what was there before the call.
    """

    peak_mib: float
    working_mib: float


def timed(call: Callable[[], object], watch: Stopwatch, seconds: float, least: int = LEAST) -> Times:
    """Repeat a call that has been warmed up.

    Args:
        call: What to do; its result is thrown away.
        watch: Of the device that it runs on.
        seconds: To spend on it, roughly.
        least: Calls, even if they take longer, within `PATIENCE_S`.
    """
    found: list[float] = []
    begin, at_once = time.perf_counter(), 1
    while True:
        marks = []
        for _ in range(at_once):
            start = watch.mark()
            call()
            marks.append((start, watch.mark()))
        watch.settle()
        found += [watch.elapsed_ms(*pair) for pair in marks]
        spent = time.perf_counter() - begin
        is_enough = spent >= seconds and (len(found) >= least or spent >= PATIENCE_S)
        if is_enough or len(found) >= MOST:
            return Times.of(found)
        at_once = min(2 * at_once, MOST_AT_ONCE, MOST - len(found))


def held(call: Callable[[], object], watch: Stopwatch) -> Memory | None:
    """Run a call once and see how much memory it takes; None where nothing tells.

    Args:
        call: What to do; its result counts, as it is held when the call returns.
        watch: Of the device that it runs on.
    """
    if isinstance(watch, WallClock):
        return_freed()
    watch.forget_peak()
    before = watch.peak_mib()
    call()
    watch.settle()
    peak = watch.peak_mib()
    return None if before is None or peak is None else Memory(peak, max(peak - before, 0.0))
