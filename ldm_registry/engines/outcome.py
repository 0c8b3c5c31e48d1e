"""What became of a task, and what does tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ldm_registry.errors import LdmError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Task, Result]):
    """What became of one task.

    Attributes:
        index: Of the task, in the order in which the tasks were given.
        task: As it was given.
        result: What the function returned; None where it failed.
        error: Why it failed, on one line; None where it went well.
        error_lines: Details and advice, where it failed.
    """

    index: int
    task: Task
    result: Result | None
    error: str | None = None
    error_lines: tuple[str, ...] = ()


class Engine(ABC):
    """Does tasks that do not depend on one another.

    Attributes:
        name: As it is asked for: "here" or "ray".
    """

    name: str

    @abstractmethod
    def outcomes(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, gpu: bool = False
    ) -> Iterator[Outcome[Task, Result]]:
        """Do tasks. The work is done as the outcomes are pulled; closing the iterator gives up what is left.

        A task whose function raises is an outcome with an error, not the end. A task whose worker dies is done again
        by another one, three times in all.

        Args:
            function: A function of an installed module, or a `functools.partial` of one. It runs in another process,
                maybe on another machine, so that neither it nor its values may depend on what this process holds.
            tasks: Small values that can be pickled. Pulled as there is somebody to do them.
            gpu: Whether each task wants a GPU of its own.

        Yields:
            One for each task, in the order of completion.

        Raises:
            SpecError: A GPU is wanted, and there is none.
        """


def attempt(
    function: Callable[[Task], Result], task: Task
) -> tuple[Result | None, str | None, tuple[str, ...]]:
    """Do one task: its result, or why there is none, as an `Outcome` says it.

    Args:
        function: Does it.
        task: Its argument.
    """
    try:
        return function(task), None, ()
    except Exception as error:
        return None, *in_words(error)


def in_words(error: BaseException) -> tuple[str, tuple[str, ...]]:
    """An error as a line, and lines of details.

    Args:
        error: Of ours or anybody's.
    """
    kind = type(error).__name__
    if isinstance(error, LdmError):
        return f"{kind}: {error.summary}", (*error.problems, *filter(None, [error.hint]))
    first, *others = str(error).strip().splitlines() or [""]
    return f"{kind}: {first}" if first else kind, tuple(others)
