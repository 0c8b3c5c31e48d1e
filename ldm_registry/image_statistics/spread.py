"""Mean, standard deviation and range of single numbers, of parts that can be put together in any order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, final


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """Of numbers.

    Attributes:
        count: How many.
        mean: Of them; 0 where there are none.
        squares: Sum of the squared differences from the mean.
        least: NaN where there are none.
        largest: NaN where there are none.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.nan
    largest: float = math.nan

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of some numbers, all finite.

        Args:
            values: The numbers.
        """
        found = list(values)
        if not found:
            return cls()
        mean = math.fsum(found) / len(found)
        squares = math.fsum((value - mean) ** 2 for value in found)
        return cls(len(found), mean, squares, min(found), max(found))

    def merged(self, other: Self) -> Self:
        """Of the numbers of both; see `Gaussian.merged`.

        Args:
            other: Of other numbers.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count, step = self.count + other.count, other.mean - self.mean
        return type(self)(
            count,
            self.mean + step * (other.count / count),
            self.squares + other.squares + step * step * (self.count * other.count / count),
            min(self.least, other.least),
            max(self.largest, other.largest),
        )

    @property
    def std(self) -> float:
        """Unbiased; NaN where there are fewer than two numbers."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else math.nan

    def to_document(self) -> dict[str, Any] | None:
        """For JSON; None where there are no numbers."""
        if not self.count:
            return None
        std = self.std if self.count > 1 else None
        return {"mean": self.mean, "std": std, "least": self.least, "largest": self.largest}
