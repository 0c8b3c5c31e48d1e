"""What time and memory are read from: the device's own events and allocator, or the clock on the wall."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, final

import torch

from ldm_registry.costs.resident_memory import MIB, forget_peak, free_mib, peak_resident_mib

Mark = Any
"""A moment, as the stopwatch that made it understands it."""


class Stopwatch(ABC):
    """Marks moments on one device and remembers the most memory that was held between them."""

    clock: str
    """What times are read from, a phrase."""
    memory: str
    """What a peak counts, a phrase."""

    @abstractmethod
    def mark(self) -> Mark:
        """This moment, behind all work that was asked for before it; does not wait."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until everything that was asked for is done; only then `elapsed_ms` may be asked."""

    @abstractmethod
    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Between two marks, milliseconds."""

    @abstractmethod
    def forget_peak(self) -> None:
        """Start the peak of memory anew."""

    @abstractmethod
    def peak_mib(self) -> float | None:
        """The most memory that was held since `forget_peak`; None where nothing tells."""

    def free_mib(self) -> float | None:
        """Memory that can still be had; None where nothing tells."""
        return None


@final
class WallClock(Stopwatch):
    """For work that is done when its call returns."""

    clock = "wall clock"
    memory = "resident memory of the whole process"

    def mark(self) -> Mark:
        """See the base class."""
        return time.perf_counter()

    def settle(self) -> None:
        """Nothing is ever outstanding."""

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """See the base class."""
        return float(end - start) * 1e3

    def forget_peak(self) -> None:
        """See the base class."""
        forget_peak()

    def peak_mib(self) -> float | None:
        """See the base class."""
        return peak_resident_mib()

    def free_mib(self) -> float | None:
        """See the base class."""
        return free_mib()


@final
class DeviceEvents(Stopwatch):
    """For a device that works through a queue: its own events, and its allocator's count.

    Args:
        device: A CUDA device.
        cuda: `torch.cuda`, or what stands for it.
    """

    clock = "device events"
    memory = "memory allocated on the device"

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda

    def mark(self) -> Mark:
        """An event at the end of the device's current queue."""
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event

    def settle(self) -> None:
        """See the base class."""
        self._cuda.synchronize(self._device)

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """See the base class."""
        return float(start.elapsed_time(end))

    def forget_peak(self) -> None:
        """The count follows the calls, not the queue, so that nothing has to be waited for."""
        self._cuda.reset_peak_memory_stats(self._device)

    def peak_mib(self) -> float | None:
        """See the base class."""
        return float(self._cuda.max_memory_allocated(self._device)) / MIB

    def free_mib(self) -> float | None:
        """See the base class."""
        return float(self._cuda.mem_get_info(self._device)[0]) / MIB


def stopwatch(device: torch.device) -> Stopwatch:
    """The one that tells the truth about a device."""
    return DeviceEvents(device) if device.type == "cuda" else WallClock()
