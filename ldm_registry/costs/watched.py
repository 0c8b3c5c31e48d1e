"""Denoisers with an eye on their calls: they pass for the denoiser in a pipeline, which itself stays as it is.

No hooks: those that are added to a compiled module are never called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, cast, final

from torch import nn

from ldm_registry.costs.stopwatch import Mark, Stopwatch
from ldm_registry.interfaces import Denoiser
from ldm_registry.pipeline import Pipeline


class Around(nn.Module, ABC):
    """Stands for a denoiser; whatever is not asked of it is asked of the denoiser.

    Attributes:
        denoiser: What it stands for.
    """

    denoiser: nn.Module

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("denoiser"), name)

    def within(self, pipe: Pipeline) -> Pipeline:
        """The pipeline with this in the place of its denoiser."""
        return replace(pipe, denoiser=cast(Denoiser, self))


@final
class Watched(Around):
    """Marks every call, and keeps the peaks of memory inside and outside of them.

    Args:
        denoiser: What it stands for.
        watch: Of the denoiser's device.
        with_peaks: Also look at memory, which takes a part of a millisecond outside of every call.

    Attributes:
        pairs: Beginning and end of every call.
        peak: MiB.
        peak_outside: MiB.
    """

    def __init__(self, denoiser: nn.Module, watch: Stopwatch, *, with_peaks: bool = True) -> None:
        super().__init__(denoiser)
        self._watch, self._with_peaks = watch, with_peaks
        self.pairs: list[tuple[Mark, Mark]] = []
        self.peak = 0.0
        self.peak_outside = 0.0

    def outside(self) -> None:
        """The scheduler has worked since the peak was forgotten."""
        self.peak_outside = max(self.peak_outside, self._watch.peak_mib() or 0.0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser between two marks."""
        if self._with_peaks:
            self.outside()
            self._watch.forget_peak()
        begun = self._watch.mark()
        output = self.denoiser(*args, **kwargs)
        self.pairs.append((begun, self._watch.mark()))
        if self._with_peaks:
            self.peak = max(self.peak, self._watch.peak_mib() or 0.0)
            self._watch.forget_peak()
        return output


@final
class Noted(Around):
    """Keeps what the latest call was given and what it gave.

    Attributes:
        given: Positional arguments.
        output: What came back.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__(denoiser)
        self.given: tuple[Any, ...] = ()
        self.output: Any = None

    def forward(self, *args: Any) -> Any:
        """Call the denoiser."""
        self.given, self.output = args, None
        self.output = self.denoiser(*args)
        return self.output
