"""Runs the two sides of a case by turns under pytest-benchmark, after it has compared what they put out."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from result import Result
from torch import Tensor
from turns import Turns

from ldm_registry.costs.ceiling import measured
from ldm_registry.costs.operations import Work, counted

Side = Callable[[], Tensor]

FEWEST, MOST = 3, 50
"""Turns of each side."""
CEILING_S = 0.6
"""Seconds for the bare operations after each case: the machine may be slower then than it was at the start."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same work twice, on the same weights and inputs.

    Attributes:
        ours: Does it and gives the outcome.
        diffusers: Likewise.
        tolerance: Largest distance of the outcomes, relative to the largest number in diffusers'.
        repeats: How many units of work one call does; times are given for one unit.
    """

    ours: Side
    diffusers: Side
    tolerance: float = 1e-4
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Race:
    """What the fixture `race` gives: call it with a pair, or tell it a figure that was found otherwise.

    Attributes:
        benchmark: pytest-benchmark's fixture.
        device: Where the networks are.
        smoke: One turn on tiny sizes: that it runs is all that is asked.
        seconds: How long the turns of one case may take, as far as that is more than the fewest.
    """

    benchmark: Any
    device: torch.device
    smoke: bool
    seconds: float
    results: list[dict[str, Any]] = field(default_factory=list)

    def __call__(
        self,
        name: str,
        pair: Pair,
        *,
        goal: float | None = None,
        limit: float | None = None,
        dtype: torch.dtype | None = None,
        note: str = "",
    ) -> Turns:
        """Compare the outcomes, then time both sides by turns.

        Args:
            name: Of the case.
            pair: The two sides.
            goal: What the ratio should not exceed.
            limit: What our median should not exceed, seconds for one unit of work.
            dtype: Of networks: their convolutions and matrix products are counted on diffusers' side, and our time
                is held against that of bare ones. None where there is little of either.
            note: What else has to be known.
        """
        begin = time.perf_counter()
        work = self._compared(pair, dtype)
        once_s = time.perf_counter() - begin
        if once_s < self.seconds:  # the first time takes longer than the others
            once_s = self._seconds(pair.ours) + self._seconds(pair.diffusers)
        turns = self._turns(pair, self._rounds(once_s))
        ours, theirs = statistics.median(turns.ours_s), statistics.median(turns.theirs_s)
        self.tell(
            Result(
                name,
                ours / pair.repeats,
                "s",
                theirs / pair.repeats,
                turns.ratio,
                turns.quartiles,
                len(turns.ours_s),
                goal,
                limit,
                of_ceiling=self._share(work, dtype, ours),
                note=note,
            )
        )
        return turns

    def tell(self, result: Result) -> None:
        """Add a line to the table."""
        self.results.append(result.dump())
        self.benchmark.extra_info["results"] = self.results

    def alone(
        self, name: str, work: Side, *, limit: float | None = None, repeats: int = 1, note: str = ""
    ) -> None:
        """Time something that diffusers does not have; arguments as in `__call__` and `Pair`."""
        work()
        times: list[float] = []
        rounds = self._rounds(self._seconds(work))
        with _undisturbed():
            self.benchmark.pedantic(lambda: times.append(self._seconds(work)), rounds=rounds)
        median = statistics.median(times) / repeats
        self.tell(Result(name, median, "s", turns=rounds, limit=limit, note=note))

    def found(self, *results: Result) -> None:
        """Lines of a case that measured by itself."""
        self.benchmark.pedantic(lambda: None, rounds=1)
        for result in results:
            self.tell(result)

    @torch.inference_mode()
    def _compared(self, pair: Pair, dtype: torch.dtype | None) -> Work:
        """Assert that both sides do the same; how much work that is, where it is to be counted."""
        theirs: list[Tensor] = []
        ours = pair.ours()
        work = Work()
        if dtype is None:
            theirs.append(pair.diffusers())
        else:
            work = counted(lambda: theirs.append(pair.diffusers()))
        (other,) = theirs
        assert ours.shape == other.shape
        distance = float((ours.double() - other.double()).abs().max() / other.double().abs().max())
        assert distance <= pair.tolerance, f"not the same work: outcomes differ by {distance:.1e}"
        return work

    def _turns(self, pair: Pair, rounds: int) -> Turns:
        ours: list[float] = []
        theirs: list[float] = []
        with _undisturbed():
            self.benchmark.pedantic(
                lambda: ours.append(self._seconds(pair.ours)),
                setup=lambda: theirs.append(self._seconds(pair.diffusers)),
                rounds=rounds,
            )
        return Turns(tuple(ours), tuple(theirs))

    def _rounds(self, once_s: float) -> int:
        return 1 if self.smoke else min(MOST, max(FEWEST, round(self.seconds / once_s)))

    def _share(self, work: Work, dtype: torch.dtype | None, seconds: float) -> float | None:
        """The time of the bare operations, measured now, over ours."""
        if dtype is None or self.smoke:
            return None
        least_ms = measured(self.device, dtype, CEILING_S).compute_ms(work)
        return None if least_ms is None else least_ms / 1e3 / seconds

    @torch.inference_mode()
    def _seconds(self, side: Side) -> float:
        begin = time.perf_counter()
        side()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No collection of garbage in the middle of a turn."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
