"""Axes: where the ticks of a diagram are, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

TICKS = 5
DECADES = 6
"""A logarithmic axis never shows more; what lies below is drawn at its lower end."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels.

    Attributes:
        low: Value at `start`.
        high: Value at `end`; above `low`.
        start: Pixel.
        end: Pixel; may lie before `start`, as it does on a vertical axis.
        ticks: Values in [low, high].
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, *, log: bool = False) -> Self:
        """Wide enough for all values, which are finite (and positive, if it is logarithmic)."""
        if log:
            high = math.ceil(math.log10(max(values, default=1.0)))
            low = max(math.floor(math.log10(min(values, default=0.1))), high - DECADES)
            low = min(low, high - 1)
            return cls(10.0**low, 10.0**high, start, end, tuple(10.0**n for n in range(low, high + 1)), True)
        low_value, high_value = min(values, default=0.0), max(values, default=1.0)
        step = _step((high_value - low_value) or abs(high_value) or 1.0)
        first, last = math.floor(low_value / step), math.ceil(high_value / step)
        last = max(last, first + 1)
        ticks = tuple(index * step for index in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, end, ticks)

    def at(self, value: float) -> float:
        """The pixel of a value, held inside the axis."""
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        """Whether a value can be drawn."""
        return math.isfinite(value) and (not self.log or value > 0.0)


def number(value: float | None) -> str:
    """A number for a reader: four significant digits, words for what is none."""
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value != 0.0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.3e}".split("e")
        mantissa = mantissa.rstrip("0").removesuffix(".")
        return f"{mantissa}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")
    written = f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return ("0" if written == "-0" else written).replace("-", "\N{MINUS SIGN}")


def _step(span: float) -> float:
    """The smallest of 1, 2, 5, 10, ... that needs no more than `TICKS` steps."""
    rough = max(span / TICKS, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
