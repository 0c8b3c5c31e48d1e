"""What a device can do at best: the rates of a matrix product, a 3x3 convolution and a copy, measured here and now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from ldm_registry.costs.operations import Work
from ldm_registry.costs.repeated import timed
from ldm_registry.costs.stopwatch import Stopwatch, stopwatch
from ldm_registry.linear import linear

LONG_ENOUGH_MS = 20.0
"""A problem that takes longer is large enough to show the best rate."""
MATMUL_SIDES = (256, 512, 1024, 2048, 4096, 8192)
CONVOLUTIONS = ((1, 64, 32), (4, 128, 64), (8, 256, 64), (32, 256, 128), (64, 512, 128))
"""(batch, channels in and out, side)."""
COPIED_MIB = {"cpu": 64, "cuda": 1024}
"""More than any cache holds."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best rates that were seen.

    Attributes:
        device: Where.
        dtype: Of which type, such as `float32`.
        matmul_flop_s: Floating-point operations a second in a square matrix product, by the faster kernel where there
            are two; None where there is none of this type.
        convolution_flop_s: The same in a 3x3 convolution.
        copy_byte_s: Bytes read and written a second while a tensor is copied.
    """

    device: str
    dtype: str
    matmul_flop_s: float | None
    convolution_flop_s: float | None
    copy_byte_s: float

    def compute_ms(self, work: Work) -> float | None:
        """The least time that the floating-point operations of some work take; None where a rate is missing."""
        total = 0.0
        for flops, rate in (
            (work.convolution_flops, self.convolution_flop_s),
            (work.matmul_flops, self.matmul_flop_s),
        ):
            if flops and rate is None:
                return None
            total += flops / rate * 1e3 if flops and rate else 0.0
        return total

    def copy_ms(self, work: Work) -> float:
        """The time that copying takes which moves as many bytes."""
        return work.moved_bytes / self.copy_byte_s * 1e3


@torch.inference_mode()
def measured(device: torch.device, dtype: torch.dtype, seconds: float) -> Ceiling:
    """Measure a device with whatever else runs on it.

    Args:
        device: Where.
        dtype: Floating-point type of all operands.
        seconds: To spend, roughly.
    """
    watch = stopwatch(device)
    return Ceiling(
        str(device),
        str(dtype).removeprefix("torch."),
        _best_rate(_matmuls(device, dtype), watch, seconds / 3),
        _best_rate(_convolutions(device, dtype), watch, seconds / 3),
        _copy_rate(device, dtype, watch, seconds / 3),
    )


Problem = tuple[int, Callable[[], object]]
"""Floating-point operations, and what does them."""


def _best_rate(problems: Iterator[Problem], watch: Stopwatch, seconds: float) -> float | None:
    """Operations a second over problems of growing size, up to the first one that takes long enough."""
    best = None
    try:
        for flops, solve in problems:
            solve()
            best_ms = timed(solve, watch, 0.0).best_ms
            if best_ms < LONG_ENOUGH_MS:
                best = max(best or 0.0, flops / best_ms * 1e3)
                continue
            return max(best or 0.0, flops / timed(solve, watch, seconds).best_ms * 1e3)
    except RuntimeError:  # no kernel for this type here, or no memory for the next size
        return best
    return best


def _matmuls(device: torch.device, dtype: torch.dtype) -> Iterator[Problem]:
    for side in MATMUL_SIDES:
        one = torch.full((side, side), 0.5, device=device, dtype=dtype)
        yield 2 * side**3, lambda one=one: linear(one, one)  # type: ignore[misc]  # mypy infers no default of a lambda


def _convolutions(device: torch.device, dtype: torch.dtype) -> Iterator[Problem]:
    for batch, channels, side in CONVOLUTIONS:
        shape, kernel = (batch, channels, side, side), (channels, channels, 3, 3)
        image = torch.full(shape, 0.5, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.full(kernel, 0.5, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        flops = 2 * batch * side**2 * channels**2 * 9
        yield flops, lambda x=image, w=weight: functional.conv2d(x, w, padding=1)  # type: ignore[misc]  # as above


def _copy_rate(device: torch.device, dtype: torch.dtype, watch: Stopwatch, seconds: float) -> float:
    size = COPIED_MIB.get(device.type, COPIED_MIB["cpu"]) * 2**20 // dtype.itemsize
    source = torch.zeros(size, device=device, dtype=dtype)
    target = torch.ones_like(source)
    target.copy_(source)
    return 2 * source.nbytes / timed(lambda: target.copy_(source), watch, seconds).best_ms * 1e3
