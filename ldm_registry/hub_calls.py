"""Bounds for one call of the Hub's library: how long it may take, and how much may arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ldm_registry.errors import IntegrityError

T = TypeVar("T")


def within(limit_s: float, call: Callable[[], T]) -> T:
    """What a call returns, unless it takes too long: most requests of the library wait for ever.

    Args:
        limit_s: Seconds. A call that takes longer goes on in a thread of its own, and nobody waits for it.
        call: What to do; what it raises is raised here.

    Raises:
        TimeoutError: It takes too long.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="hub", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {limit_s:.0f} s")
    if errors:
        raise errors[0]
    return results[0]


def measuring(what: str, at_most: int | None) -> Any:
    """The class of the library's progress bar, which sees every piece that arrives, and stops at one too many.

    Args:
        what: Is fetched, for the error.
        at_most: Bytes, after which it raises IntegrityError; None lets everything pass.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # public, but not typed as such

    class Measure(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            self.arrived = getattr(self, "arrived", 0) + int(n or 0)
            if at_most is not None and self.arrived > at_most:
                raise IntegrityError(
                    f"{what} did not arrive as the Hub lists it",
                    [f"size: expected {at_most}, found {self.arrived} or more"],
                    hint="nothing was kept; try again, and where it happens again do not use this repository",
                )
            done: bool | None = super().update(n)
            return done

    return Measure
