"""How far long work has come: one line that is rewritten on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldm_registry.pipeline import Event

PLAIN_LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1


class Line:
    """One line of progress."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next_s = time.monotonic() + (0.0 if self._terminal else PLAIN_LINE_EVERY_S)
        self._drawn = False

    def say(self, text: str, *, now: bool = False) -> None:
        """Show a state, unless another was shown just before.

        Args:
            text: The state, without a line break.
            now: Show it in any case.
        """
        moment = time.monotonic()
        if moment < self._next_s and not now:
            return
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._drawn = True
        else:
            print(text, file=sys.stderr, flush=True)
        self._next_s = moment + (REDRAW_EVERY_S if self._terminal else PLAIN_LINE_EVERY_S)

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def shown(happening: Iterable[Event]) -> Iterator[Event]:
    """The events of a run, passed through and counted on stderr."""
    from ldm_registry.pipeline import Started, Stepped

    line = Line()
    steps, batch = 0, 0
    try:
        for event in happening:
            if isinstance(event, Started):
                steps, batch = len(event.levels) - 1, batch + 1
            elif isinstance(event, Stepped):
                line.say(f"batch {batch}: step {event.index + 1} of {steps}, {event.latency_ms:.0f} ms each")
            yield event
    finally:
        line.end()
