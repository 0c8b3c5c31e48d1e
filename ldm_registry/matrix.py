"""Work that is a matrix: tasks about a spec each, of which one that fails is a row with its error, not the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ldm_registry import errors
from ldm_registry.engines.outcome import Engine, Outcome, Result, Task, in_words
from ldm_registry.errors import IntegrityError, LdmError
from ldm_registry.spec import PipelineSpec
from ldm_registry.streaming.on_ray import wants_gpu

SOME_FAILED = 1


@dataclass(frozen=True, slots=True)
class Failed:
    """A row without figures.

    Attributes:
        name: Of the row.
        error: Why, on one line: the name of the error, and what it says.
        lines: Details and advice.
    """

    name: str
    error: str
    lines: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, error: LdmError) -> Failed:
        """A row that failed before it became a task.

        Args:
            name: Of the row.
            error: Why.
        """
        return cls(name, *in_words(error))

    @property
    def exit_code(self) -> int:
        """That a command has which ends with this error."""
        kind = getattr(errors, self.error.partition(":")[0], LdmError)
        return kind.exit_code if isinstance(kind, type) and issubclass(kind, LdmError) else LdmError.exit_code

    def to_document(self) -> dict[str, Any]:
        """What stands in a row in place of figures, for JSON."""
        return {"error": self.error, "problems": list(self.lines)}

    def to_text(self) -> str:
        """The row, for a reader."""
        return "\n".join([f"{self.name}: {self.error}", *(f"  {line}" for line in self.lines)])


def outcomes(
    workers: Engine,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    specs: Sequence[PipelineSpec],
) -> Iterator[Outcome[Task, Result]]:
    """Do the tasks of a matrix. Where a spec runs on a GPU, each task gets one for itself.

    Args:
        workers: Who does them.
        function: As `Engine.outcomes`.
        tasks: As `Engine.outcomes`.
        specs: All that the tasks are about.

    Yields:
        One for each task, in the order of completion.

    Raises:
        SpecError: A spec runs on several GPUs, or on one where workers have none.
    """
    gpu = workers.name == "ray" and any([wants_gpu(spec) for spec in specs])
    yield from workers.outcomes(function, tasks, gpu=gpu)


def failure(name: str, outcome: Outcome[Any, Any]) -> Failed:
    """The row of a task that ended with an error.

    Args:
        name: Of the row.
        outcome: Of the task.
    """
    assert outcome.error is not None
    return Failed(name, outcome.error, outcome.error_lines)


def exit_code(failed: Sequence[Failed], count: int) -> int:
    """How a command ends: 0 where no row failed, 1 where some did, the code of the first where all did.

    A file that is not what it should be is never only one row among others: its code, 4, is that of the command.

    Args:
        failed: Rows that failed.
        count: Of all rows.
    """
    if not failed:
        return 0
    if any(row.exit_code == IntegrityError.exit_code for row in failed):
        return IntegrityError.exit_code
    return failed[0].exit_code if len(failed) == count else SOME_FAILED


def failures_in_words(failed: Sequence[Failed]) -> str:
    """Rows that failed, for a reader; nothing where there are none.

    Args:
        failed: In the order of the report.
    """
    if not failed:
        return ""
    rows = "\n".join(f"  {line}" for one in failed for line in one.to_text().splitlines())
    return f"failed: {len(failed)}\n{rows}"
