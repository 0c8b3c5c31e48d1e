"""SIGINT and SIGTERM as a flag, so that a run ends after a whole step and saves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """While this is entered, the first SIGINT or SIGTERM is only noted; a second one acts as it always does.

    Yields:
        Whether a signal has come. Outside the main thread, where signals cannot be caught, it never has.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
