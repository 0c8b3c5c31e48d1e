"""Figures of an assignment of vectors to codes."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ELEMENTS = 2**24
"""Rows are taken in slices, so that no table of rows by codes is larger than this."""


def code_counts(codes: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """How many of the codes [N] are each of 0 ... size - 1, [size]; whole numbers, so exact in any order."""
    ones = torch.ones_like(codes)
    counts = torch.zeros(size, dtype=codes.dtype, device=codes.device)
    return counts.scatter_add_(0, codes, ones).to(dtype)


def assignment_sums(vectors: Tensor, codes: Tensor, size: int) -> Tensor:
    """Sum of the vectors [N, C] of each code, [size, C].

    A product with the one-hot assignment and not a scatter, whose order of summation differs from run to run
    on a GPU.
    """
    total = vectors.new_zeros(size, vectors.shape[1])
    step = max(1, MAX_ELEMENTS // size)
    for part, chosen in zip(torch.split(vectors, step), torch.split(codes, step), strict=True):
        one_hot = vectors.new_zeros(len(part), size).scatter_(1, chosen[:, None], 1.0)
        total.addmm_(one_hot.T, part)
    return total


def perplexity(counts: Tensor) -> Tensor:
    """`exp(-sum p log p)` with `p = counts / sum(counts)`, for counts [K], a scalar in [1, K]."""
    p = counts / counts.sum()
    out: Tensor = torch.special.entr(p).sum().exp()
    return out
