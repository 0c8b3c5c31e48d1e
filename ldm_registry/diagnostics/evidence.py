"""What a measurement says: numbers beside their healthy ranges, and whom they speak against.

Plain values, so that a report can be stored, drawn and compared; nothing here holds a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ldm_registry.vocabulary import Kind

Stages = frozenset[Kind]
"""Whom a finding speaks against: one stage, or the two sides of an interface. Never empty."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """Where a number lies when nothing is wrong.

    Attributes:
        low: Inclusive; None for no bound.
        high: Inclusive; None for no bound.
        source: Why: `contract`, or the theorem or paper that it follows from.
    """

    low: float | None
    high: float | None
    source: str

    def holds(self, value: float) -> bool:
        """Whether a value lies inside; NaN never does."""
        return (
            not math.isnan(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """One number.

    Attributes:
        name: With its unit, such as `psnr_db`.
        value: NaN where it cannot be computed.
        about: What it is, one phrase for a reader who has never heard of it.
        healthy: None where nothing says what it should be.
    """

    name: str
    value: float
    about: str
    healthy: Healthy | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether it lies in its range; true where there is none."""
        return self.healthy is None or self.healthy.holds(self.value)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a measurement concludes by itself.

    Attributes:
        stages: Whom it speaks against.
        fault: What is wrong, a phrase of the field such as `encoder is fed pixels in [0, 1]`.
        strength: How sure the measurement is, in (0, 1]: 1 means that no healthy part can look like this.
        evidence: The numbers behind it, one sentence.
        is_quality: Whether the part is merely poor (undertrained, small) instead of broken.
    """

    stages: Stages
    fault: str
    strength: float
    evidence: str
    is_quality: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An image for the report.

    Attributes:
        title: Above it.
        alt: What there is to see, for somebody who does not see it.
        image: [3, H, W] in [-1, 1], float32 on the CPU.
    """

    title: str
    alt: str
    image: Tensor


@dataclass(frozen=True, slots=True)
class Curve:
    """Lines in one diagram.

    Attributes:
        title: Above it.
        x: Name and unit of the horizontal axis.
        y: Name and unit of the vertical axis.
        lines: Points (x, y) by the name of the line.
        log_y: Whether the vertical axis is logarithmic.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[tuple[float, float], ...]]
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """The outcome of one test.

    Attributes:
        code: Short name of the test: RT, LAT, DEN, ...
        title: What it asks, as a question that a healthy pipeline answers with yes.
        stages: What it looks at.
        metrics: Its numbers.
        suspicions: What it concludes; none where it finds nothing wrong.
        pictures: To look at.
        curves: To look at.
        seconds: Wall time.
        skipped: Why it was not run; None where it was.
        notes: What was left out of it, and how to have it.
    """

    code: str
    title: str
    stages: Stages
    metrics: tuple[Metric, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    curves: tuple[Curve, ...] = field(default=(), repr=False)
    seconds: float = 0.0
    skipped: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether it ran, every number lies in its range, and nothing is suspected."""
        return (
            self.skipped is None and not self.suspicions and all(metric.is_healthy for metric in self.metrics)
        )
