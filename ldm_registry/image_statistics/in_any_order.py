"""Values that arrive in any order, put together in one that does not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Generic, TypeVar, final

Value = TypeVar("Value")


@final
class InAnyOrder(Generic[Value]):
    """The leaves of a binary tree, of which neighbours are merged as soon as both are there.

    Who is merged with whom is told by the indices alone, so that roundings do not depend on who was first; and while
    one leaf is late, the others are kept as a few subtrees, about log2 of their number, rather than one by one.

    Args:
        merged: Puts two values together, that of the lower indices first.
    """

    def __init__(self, merged: Callable[[Value, Value], Value]) -> None:
        self._merged = merged
        self._subtrees: dict[tuple[int, int], Value] = {}

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._subtrees)

    def add(self, index: int, value: Value) -> None:
        """Take a leaf in.

        Args:
            index: Its place, each once.
            value: What it holds.
        """
        level = 0
        while (beside := self._subtrees.pop((level, index ^ 1), None)) is not None:
            value = self._merged(beside, value) if index % 2 else self._merged(value, beside)
            level, index = level + 1, index // 2
        self._subtrees[level, index] = value

    def total(self, nothing: Value) -> Value:
        """All that has arrived.

        Args:
            nothing: The neutral element.
        """
        ordered = sorted(self._subtrees, key=lambda place: place[1] << place[0])
        return reduce(self._merged, (self._subtrees[place] for place in ordered), nothing)
