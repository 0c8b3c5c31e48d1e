"""An eye on the calls of a denoiser while a pipeline runs; nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ldm_registry.costs.stopwatch import Mark, Stopwatch


class Watched:
    """Marks around every call, and the peaks of memory inside and outside of them.

    Attributes:
        pairs: Beginning and end of every call.
        peak: Inside, MiB.
        peak_outside: MiB.
    """

    def __init__(self, watch: Stopwatch, *, with_peaks: bool) -> None:
        self._watch, self._with_peaks = watch, with_peaks
        self._begun: Mark = None
        self.pairs: list[tuple[Mark, Mark]] = []
        self.peak = 0.0
        self.peak_outside = 0.0

    def outside(self) -> None:
        """The scheduler has worked since the peak was forgotten."""
        self.peak_outside = max(self.peak_outside, self._watch.peak_mib() or 0.0)

    def enter(self, *_: Any) -> None:
        """Before a call."""
        if self._with_peaks:
            self.outside()
            self._watch.forget_peak()
        self._begun = self._watch.mark()

    def leave(self, *_: Any) -> None:
        """After a call."""
        self.pairs.append((self._begun, self._watch.mark()))
        if self._with_peaks:
            self.peak = max(self.peak, self._watch.peak_mib() or 0.0)
            self._watch.forget_peak()


@contextmanager
def watched(denoiser: nn.Module, watch: Stopwatch, *, with_peaks: bool = True) -> Iterator[Watched]:
    """Watch a denoiser for the length of the block.

    Args:
        denoiser: What is called.
        watch: Of its device.
        with_peaks: Also look at memory, which takes a part of a millisecond outside of every call.
    """
    found = Watched(watch, with_peaks=with_peaks)
    hooks = [
        denoiser.register_forward_pre_hook(found.enter, prepend=True),
        denoiser.register_forward_hook(found.leave),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class Noted:
    """What the latest call was given and what it gave.

    Attributes:
        given: Positional arguments.
        output: What came back; None where nothing did.
    """

    def __init__(self) -> None:
        self.given: tuple[Any, ...] = ()
        self.output: Any = None

    def enter(self, _module: nn.Module, given: tuple[Any, ...]) -> None:
        """Before a call."""
        self.given, self.output = given, None

    def leave(self, _module: nn.Module, _given: tuple[Any, ...], output: Any) -> None:
        """After a call."""
        self.output = output


@contextmanager
def noted(denoiser: nn.Module) -> Iterator[Noted]:
    """Note the calls of a denoiser for the length of the block."""
    found = Noted()
    hooks = [denoiser.register_forward_pre_hook(found.enter), denoiser.register_forward_hook(found.leave)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
