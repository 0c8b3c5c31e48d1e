"""Every error that `ldm_registry` raises on purpose.

::

    LdmError
    ├── SpecError            2  the YAML, a config block or a command line is wrong
    ├── ContractError        1  the parts are sound but do not fit together
    ├── NotFoundError        3  no such component, checkpoint, spec or file
    ├── IntegrityError       4  refused: content that is broken, altered or not to be trusted
    │   ├── CheckpointError     a checkpoint whose files do not match its config or its contract
    │   └── DataError           an image set that is broken or hostile
    ├── NetworkError         5  the Hub could not be reached, or refused us
    ├── PluginError          6  a plugin is broken, duplicated or not what it declares
    │   └── MissingDependencyError  an optional library is not installed
    └── ResourceError        7  the disk is full, or memory is short

The number is the exit code of a command that ends with the error. A message says, in this order, what
failed, where, what was got against what was expected, and what to do next; all problems come at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar


class LdmError(Exception):
    """Root of the tree; never raised itself.

    Args:
        summary: One line that says what failed and where.
        problems: Every single problem, one line each; shown indented under the summary.
        hint: What to do next.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, summary: str, problems: Iterable[str] = (), hint: str | None = None) -> None:
        self.summary = summary
        self.problems = tuple(problems)
        self.hint = hint
        super().__init__(summary)

    def __str__(self) -> str:
        lines = [self.summary, *(f"  {problem}" for problem in self.problems)]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.summary, self.problems, self.hint)

    def to_dict(self) -> dict[str, Any]:
        """The error as the JSON document that `--json` prints."""
        return {
            "error": type(self).__name__,
            "summary": self.summary,
            "problems": list(self.problems),
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class SpecError(LdmError):
    """A spec, a component's config or a command line is not valid."""

    exit_code = 2


class ContractError(LdmError):
    """The parts of a pipeline contradict one another."""

    exit_code = 1


class NotFoundError(LdmError):
    """Something that was named does not exist."""

    exit_code = 3


class IntegrityError(LdmError):
    """Content was refused: it is broken, altered, or asks for trust that it has not got."""

    exit_code = 4


class CheckpointError(IntegrityError):
    """A checkpoint's files do not match its config, its contract or the component."""


class DataError(IntegrityError):
    """An image set is broken, oversized or not what it claims to be."""


class NetworkError(LdmError):
    """The Hub could not be reached or refused the request."""

    exit_code = 5


class PluginError(LdmError):
    """A plugin cannot be imported, or does not return what it declares."""

    exit_code = 6


class MissingDependencyError(PluginError):
    """An optional library that this feature needs is not installed."""


class ResourceError(LdmError):
    """The machine ran out of disk space or memory, or refused to be written to."""

    exit_code = 7


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """A sentence that offers the nearest valid words, or all of them when none is near.

    Args:
        word: What was written.
        choices: What would have been valid.
    """
    near = get_close_matches(word, choices, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(choice) for choice in near)}?"
    if not choices:
        return "nothing is available here"
    return f"choose from {', '.join(sorted(choices))}"
