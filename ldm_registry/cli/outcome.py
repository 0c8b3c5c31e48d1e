"""How every command ends: one result or one error, printed once, with its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ldm_registry.errors import LdmError, SpecError

BUG_EXIT_CODE = 70
INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found.

    Attributes:
        document: For `--json`.
        text: For a reader.
        exit_code: 0, or the code of what was found.
    """

    document: Mapping[str, Any]
    text: str
    exit_code: int = 0


def conclude(command: Callable[[], Result | None], *, as_json: bool) -> int:
    """Run a command and print its end: data to stdout, everything else to stderr.

    Args:
        command: Returns its result, or None when it has printed all there is (a help text).
        as_json: Print one JSON document, also for an error.

    Returns:
        The exit code.
    """
    try:
        result = command()
    except LdmError as caught:
        error = _pinned(caught)
        _print_error(error.to_dict(), f"{type(error).__name__}: {error}", as_json)
        return error.exit_code
    except KeyboardInterrupt:
        document = {"error": "Interrupted", "summary": "interrupted", "exit_code": INTERRUPTED_EXIT_CODE}
        _print_error(document, "interrupted", as_json)
        return INTERRUPTED_EXIT_CODE
    except Exception as error:
        if os.environ.get("LDM_TRACEBACK"):
            raise
        text = f"{type(error).__name__}: {error}"
        hint = "this is a bug of ldm-registry or of a plugin; LDM_TRACEBACK=1 shows where it happened"
        document = {"error": "Bug", "summary": text, "problems": [], "hint": hint, "exit_code": BUG_EXIT_CODE}
        _print_error(document, f"{text}\n{hint}", as_json)
        return BUG_EXIT_CODE
    if result is None:
        return 0
    _print(to_json(result.document) if as_json else result.text)
    return result.exit_code


def _pinned(error: LdmError) -> LdmError:
    """The error, with the lines that pin the addresses on the Hub that it complains of."""
    if error.exit_code != SpecError.exit_code or "hf:" not in str(error):
        return error
    from ldm_registry.travel.pinning import lines_that_pin

    lines = lines_that_pin(error)
    if not lines:
        return error
    hint = "\n".join(filter(None, (error.hint, "write in its place:", *(f"  {line}" for line in lines))))
    return type(error)(error.summary, error.problems, hint)


def to_json(document: Mapping[str, Any]) -> str:
    """One JSON document; numbers that JSON lacks are a bug, not `NaN`."""
    import json

    return json.dumps(document, indent=2, allow_nan=False, default=str)


def _print_error(document: Mapping[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _print(to_json(document))
    else:
        print(text, file=sys.stderr)


def _print(text: str) -> None:
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has gone; a second failure at exit would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
