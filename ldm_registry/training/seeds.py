"""Data order and noise as pure functions of (seed, step), so that a resumed run has nothing to remember."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def mixed(*words: int | str) -> int:
    """A 63-bit number from words: equal words give equal numbers, and nearby ones give unrelated numbers."""
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded(*words: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on the words and the type of device alone."""
    return torch.Generator(device).manual_seed(mixed(*words))


def rows_of_step(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Which samples a step sees: every epoch is one random permutation, and batches run across its end.

    Args:
        count: Samples in the set.
        batch: Samples in a step.
        seed: Of the run.
        step: From 0.

    Returns:
        int64 [batch].
    """
    parts, at, left = [], step * batch, batch
    while left:
        epoch, offset = divmod(at, count)
        part = _permutation(count, seed, epoch)[offset : offset + left]
        parts.append(part)
        at, left = at + len(part), left - len(part)
    return torch.cat(parts)


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=seeded(seed, "order", epoch))
