"""How a cost grows: the exponent of a power law through a few points."""

from __future__ import annotations

import math
from collections.abc import Iterable


def exponent(points: Iterable[tuple[float, float]]) -> float | None:
    """The p of `y = a * x**p` by least squares of the logarithms: 1 for linear work, 2 for all pairs.

    Args:
        points: (x, y), x positive.

    Returns:
        None for fewer than two different x, or where a y is not positive: nothing that is counted grows.
    """
    pairs = [(x, y) for x, y in points]
    if len({x for x, _ in pairs}) < 2 or any(y <= 0.0 for _, y in pairs):
        return None
    logs = [(math.log(x), math.log(y)) for x, y in pairs]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
