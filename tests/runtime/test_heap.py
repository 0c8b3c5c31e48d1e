from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

BLOCKS_OF_THE_SYSTEM = """
import ctypes
import torch
from ldm_registry.runtime.heap import keep_freed

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

counts = ctypes.CDLL(None).mallinfo2
counts.restype = Counts
{}
before = counts().hblks
held = [torch.empty(mib * 2**20, dtype=torch.uint8) for mib in (1, 4, 16, 31)]
print(counts().hblks - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="no glibc from 2.33 on, which says what it got where",
)
@pytest.mark.parametrize(("learnt", "expected"), [("keep_freed()", 0), ("", 4)])
def test_large_blocks_come_from_what_is_kept(learnt: str, expected: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKS_OF_THE_SYSTEM.format(learnt)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ended.stdout) == expected
