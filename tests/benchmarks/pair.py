"""The same work done twice, here and by diffusers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Side = Callable[[], Tensor]
"""Does the work and gives the outcome."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same work on the same weights and inputs.

    Attributes:
        ours: Does it here.
        diffusers: Does it there.
        tolerance: Largest distance of the outcomes, relative to the largest number in diffusers'.
        repeats: How many units of work one call does; times are given for one unit.
    """

    ours: Side
    diffusers: Side
    tolerance: float = 1e-4
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    """One call of a side: seconds, and the outcome."""

    seconds: float
    outcome: Tensor


def do(side: Side, device: torch.device) -> Done:
    """Run a side once; it is done when the device is."""
    _tidy()
    begin = time.perf_counter()
    with torch.inference_mode():
        outcome = side()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Done(time.perf_counter() - begin, outcome)


def _tidy() -> None:
    """Let the C library merge what the other side freed, which it puts off until somebody asks for a large piece.

    After a thousand steps through SciPy that takes 6 ms, and they would be taken from whoever has the next turn.
    """
    bytearray(2**16)


@torch.inference_mode()
def assert_same(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Times of two sides that do different things say nothing."""
    assert ours.shape == theirs.shape
    distance = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    assert distance <= tolerance, f"not the same work: outcomes differ by {distance:.1e}"
