"""A part whose weights wait on the CPU while it is not running, and are streamed back ahead of its turn.

Weights are never streamed out: what waits is the original, what runs is a copy, and the copy is dropped.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from ldm_registry.interfaces import Component
from ldm_registry.runtime.entry import Call, own_call, stand_in


class Carrier(ABC):
    """Copies tensors to the device where a part runs.

    Attributes:
        device: Where they go.
    """

    device: torch.device

    @abstractmethod
    def waiting(self, tensor: Tensor) -> Tensor:
        """The tensor in memory of the CPU from which it can be fetched."""

    @abstractmethod
    def start(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies that are on their way to the device; not to be read before `arrive`."""

    @abstractmethod
    def arrive(self, copies: Sequence[Tensor]) -> None:
        """What is queued on the device from now on may read the copies of the last `start`."""


@final
class CudaCarrier(Carrier):
    """Pinned memory, and a stream beside that of the kernels: the copies travel while another part computes.

    Args:
        device: With its index, or the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stubs

    def waiting(self, tensor: Tensor) -> Tensor:
        """The tensor in pinned memory."""
        return tensor.cpu().pin_memory()

    def start(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies on the stream of its own."""
        with torch.cuda.stream(self._stream):
            return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    def arrive(self, copies: Sequence[Tensor]) -> None:
        """Let the current stream wait for the copies; the CPU goes on."""
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for one in copies:
            # Their memory was taken on the other stream: it is free again only after the kernels that read them.
            one.record_stream(current)


@final
class OffloadedCall:
    """Stands in for the method of a part: fetches the weights for the call, unless they are held already.

    Args:
        part: On the CPU. Its tensors move to memory that the carrier can fetch from.
        call: What is called once the weights are there.
        carrier: Fetches them.
    """

    def __init__(self, part: Component, call: Call, carrier: Carrier) -> None:
        self.call = call
        self._part, self._carrier = part, carrier
        self._coming: list[Tensor] | None = None
        self._waiting: list[Tensor] = []
        self._holders = 0
        with torch.inference_mode(False):
            for tensor in self._tensors():
                tensor.data = carrier.waiting(tensor.data)

    @property
    def device(self) -> torch.device:
        """Where the part runs."""
        return self._carrier.device

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the method gives."""
        with self.held():
            return self.call(*args, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy is made to be changed or measured; it runs its own method, where its tensors are.
        return own_call(copy.deepcopy(self._part, memo))

    def prefetch(self) -> None:
        """Start to fetch the weights; does not wait for them."""
        if self._coming is None and not self._holders:
            with torch.inference_mode(False):
                self._coming = self._carrier.start([tensor.data for tensor in self._tensors()])

    @contextmanager
    def held(self) -> Iterator[None]:
        """The weights are on the device for the length of the block."""
        self.prefetch()
        if self._coming is not None:
            self._arrive(self._coming)
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._drop()

    def _drop(self) -> None:
        """Give the memory on the device back."""
        with torch.inference_mode(False):
            for tensor, waiting in zip(self._tensors(), self._waiting, strict=True):
                tensor.data = waiting
        self._waiting = []

    def _arrive(self, copies: list[Tensor]) -> None:
        self._carrier.arrive(copies)
        with torch.inference_mode(False):
            tensors = self._tensors()
            self._waiting = [tensor.data for tensor in tensors]
            for tensor, there in zip(tensors, copies, strict=True):
                tensor.data = there
        self._coming = None

    def _tensors(self) -> list[Tensor]:
        return [*self._part.parameters(), *self._part.buffers()]


def running_device(part: nn.Module) -> torch.device | None:
    """Where an offloaded part runs; None for any other."""
    call = stand_in(part)
    return call.device if isinstance(call, OffloadedCall) else None


def prefetch(*parts: nn.Module) -> None:
    """Start to fetch the weights of those parts that are offloaded."""
    for part in parts:
        call = stand_in(part)
        if isinstance(call, OffloadedCall):
            call.prefetch()


@contextmanager
def held(*parts: nn.Module) -> Iterator[None]:
    """The weights of those parts that are offloaded are where they run, for the length of the block."""
    with ExitStack() as stack:
        for part in parts:
            call = stand_in(part)
            if isinstance(call, OffloadedCall):
                stack.enter_context(call.held())
        yield
