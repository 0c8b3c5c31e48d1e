"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

import torch

LEARNT_BYTES = 2**25 - 2**16
"""Almost the largest block that glibc learns from: 32 MiB with what it adds (`M_MMAP_THRESHOLD`, mallopt(3))."""


def keep_freed() -> None:
    """Let the C library keep blocks that were freed for the next layer, up to 64 MiB, from the first layer on.

    glibc gets larger blocks from the system and hands them back, and the system clears each page anew: that costs more
    than many a layer. It stops doing so with sizes that it has seen freed once, so one is freed here. Nothing is ever
    written to it, and whoever has set the threshold by `MALLOC_MMAP_THRESHOLD_` keeps it.
    """
    torch.empty(LEARNT_BYTES, dtype=torch.uint8, device="cpu")


def return_freed() -> None:
    """Hand what was freed back to the system, where the C library can: it counts as held otherwise."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc; None elsewhere."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
