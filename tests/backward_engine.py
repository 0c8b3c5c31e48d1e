"""An engine whose tasks are done last to first, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

from ldm_registry.engines.outcome import Engine, Outcome, Result, Task, attempt


@final
class Backwards(Engine):
    """Tasks in this process, the last one first.

    Args:
        instead: In place of the function that is handed in; None for that one.
    """

    name = "backwards"

    def __init__(self, instead: Callable[[Any], Any] | None = None) -> None:
        self._instead = instead

    def outcomes(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, gpu: bool = False
    ) -> Iterator[Outcome[Task, Result]]:
        """As `Engine.outcomes`."""
        for index, task in reversed(list(enumerate(tasks))):
            yield Outcome(index, task, *attempt(self._instead or function, task))
