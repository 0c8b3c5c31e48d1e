"""One line of the table of benchmarks, as it is stored beside pytest-benchmark's own statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    "B": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "B/s": ((1e12, "TB/s"), (1e9, "GB/s")),
    "FLOP/s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")),
    "": ((1.0, ""),),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one case found.

    Attributes:
        name: Of the case, a phrase.
        ours: The median, in `unit`.
        unit: A key of `SCALES`; empty for a count.
        theirs: The median of diffusers, where there is such a thing.
        ratio: The median of ours over theirs, turn by turn.
        quartiles: Between which the middle half of the ratios lies.
        turns: How many times each side was measured.
        goal: What the ratio should not exceed.
        limit: What our own figure should not exceed.
        of_ceiling: The time of its convolutions and matrix products by themselves, at the best rates that were seen in
            this run, over our time.
        note: What else has to be known.
    """

    name: str
    ours: float
    unit: str = "s"
    theirs: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    turns: int = 1
    goal: float | None = None
    limit: float | None = None
    of_ceiling: float | None = None
    note: str = ""

    @classmethod
    def load(cls, stored: dict[str, Any]) -> Result:
        """What `dump` wrote."""
        return cls(**{**stored, "quartiles": tuple(stored["quartiles"]) if stored["quartiles"] else None})

    def dump(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self)

    @property
    def reached(self) -> bool | None:
        """Whether every goal was met; None where there is none."""
        aims = [(self.ratio, self.goal), (self.ours, self.limit)]
        judged = [value <= aim for value, aim in aims if value is not None and aim is not None]
        return all(judged) if judged else None

    def cells(self) -> tuple[str, ...]:
        """The line as the table shows it: case, ours, diffusers, ratio, spread, goal, share of the ceiling, note."""
        aims = [f"<= {self.goal:g}"] if self.goal is not None else []
        aims += [f"<= {quantity(self.limit, self.unit)}"] if self.limit is not None else []
        goal = f"{', '.join(aims)}: {'met' if self.reached else 'missed'}" if aims else ""
        share = f"{self.of_ceiling:.0%}" if self.of_ceiling is not None else ""
        spread = f"{self.quartiles[0]:.3f} ... {self.quartiles[1]:.3f}" if self.quartiles else ""
        ratio = f"{self.ratio:.3f}" if self.ratio is not None else ""
        theirs = quantity(self.theirs, self.unit) if self.theirs is not None else ""
        return self.name, quantity(self.ours, self.unit), theirs, ratio, spread, goal, share, self.note


HEADINGS = ("case", "ours", "diffusers", "ratio", "middle half", "goal", "of the ceiling", "note")


def quantity(value: float, unit: str) -> str:
    """A number and its unit at the scale that suits it, three digits."""
    factor, name = next((scale for scale in SCALES[unit] if abs(value) >= scale[0]), SCALES[unit][-1])
    scaled = value / factor
    digits = (
        f"{scaled:.0f}" if abs(scaled) >= 100 or (not unit and scaled == round(scaled)) else f"{scaled:.3g}"
    )
    return f"{digits} {name}".strip()
