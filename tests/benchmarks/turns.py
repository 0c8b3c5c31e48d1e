"""Times of two sides that took turns, and what they say about each other."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turns:
    """Times of the same work, done by turns: whatever the machine did meanwhile, it did to both.

    Attributes:
        ours_s: Seconds of each of our turns.
        theirs_s: Seconds of the turn of the other side just before it.
    """

    ours_s: tuple[float, ...]
    theirs_s: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over theirs, turn by turn."""
        return tuple(mine / other for mine, other in zip(self.ours_s, self.theirs_s, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the ratios; below 1 where ours is faster."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which the middle half of the ratios lies."""
        if len(self.ratios) == 1:
            return self.ratios * 2
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high
