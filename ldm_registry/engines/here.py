"""Tasks one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import final

from ldm_registry.engines.outcome import Engine, Outcome, Result, Task, attempt


@final
class Here(Engine):
    """One task after the other, in this process; a GPU is whatever the task itself takes."""

    name = "here"

    def outcomes(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, gpu: bool = False
    ) -> Iterator[Outcome[Task, Result]]:
        """As `Engine.outcomes`, in the order of the tasks."""
        for index, task in enumerate(tasks):
            yield Outcome(index, task, *attempt(function, task))
