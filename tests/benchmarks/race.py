"""Runs the two sides of a case by turns under pytest-benchmark, after it has compared what they put out."""

from __future__ import annotations

import contextlib
import gc
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from pair import Pair, Side, assert_same, do
from result import Result
from turns import Turns

from ldm_registry.costs.ceiling import measured
from ldm_registry.costs.operations import counted

FEWEST, MOST = 3, 50
"""Turns of each side."""
CEILING_S = 0.6
"""Seconds for the bare operations after each case: the machine may be slower then than it was at the start."""


@dataclass(frozen=True, slots=True)
class Race:
    """What the fixture `race` gives: call it with a pair, or tell it a figure that was found otherwise.

    Attributes:
        benchmark: pytest-benchmark's fixture.
        device: Where the networks are.
        smoke: The comparison is the only turn: that the case runs is all that is asked.
        seconds: How long the turns of one case may take, as far as that is more than the fewest.
        results: Lines of the table, as JSON stores them.
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
    ) -> None:
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
        ours, theirs = do(pair.ours, self.device), do(pair.diffusers, self.device)
        assert_same(ours.outcome, theirs.outcome, pair.tolerance)
        turns = self._turns(pair, Turns((ours.seconds,), (theirs.seconds,)))
        ours_s, theirs_s = statistics.median(turns.ours_s), statistics.median(turns.theirs_s)
        self.tell(
            Result(
                name,
                ours_s / pair.repeats,
                "s",
                theirs_s / pair.repeats,
                turns.ratio,
                turns.quartiles,
                len(turns.ours_s),
                goal,
                limit,
                None if dtype is None or self.smoke else self._share(pair, dtype, ours_s),
                note,
            )
        )

    def alone(
        self, name: str, work: Side, *, limit: float | None = None, repeats: int = 1, note: str = ""
    ) -> None:
        """Time something that diffusers does not have; arguments as in `__call__` and `Pair`."""
        times = [do(work, self.device).seconds]
        if not self.smoke:
            rounds = self._rounds(times.pop())
            with _undisturbed():
                self.benchmark.pedantic(lambda: times.append(do(work, self.device).seconds), rounds=rounds)
        else:
            self._nothing()
        median = statistics.median(times) / repeats
        self.tell(Result(name, median, "s", turns=len(times), limit=limit, note=note))

    def found(self, *results: Result) -> None:
        """Lines of a case that measured by itself."""
        self._nothing()
        for result in results:
            self.tell(result)

    def tell(self, result: Result) -> None:
        """Add a line to the table."""
        self.results.append(result.dump())
        self.benchmark.extra_info["results"] = self.results

    def _turns(self, pair: Pair, first: Turns) -> Turns:
        """As many turns as there is time for; in smoke mode the first one, in which both were compared."""
        if self.smoke:
            self._nothing()
            return first
        ours: list[float] = []
        theirs: list[float] = []
        with _undisturbed():
            self.benchmark.pedantic(
                lambda: ours.append(do(pair.ours, self.device).seconds),
                setup=lambda: theirs.append(do(pair.diffusers, self.device).seconds),
                rounds=self._rounds(first.ours_s[0] + first.theirs_s[0]),
            )
        return Turns(tuple(ours), tuple(theirs))

    def _rounds(self, once_s: float) -> int:
        return min(MOST, max(FEWEST, round(self.seconds / once_s)))

    def _share(self, pair: Pair, dtype: torch.dtype, seconds: float) -> float | None:
        """The time of the bare operations, measured now, over ours."""
        with torch.inference_mode():
            work = counted(pair.diffusers)
        least_ms = measured(self.device, dtype, CEILING_S).compute_ms(work)
        return None if least_ms is None else least_ms / 1e3 / seconds

    def _nothing(self) -> None:
        """A case that pytest-benchmark saw nothing of is an error to it."""
        self.benchmark.pedantic(lambda: None, rounds=1)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No collection of garbage in the middle of a turn."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
