"""What a part has to keep: how many parameters, and how many bytes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn


def parameters(*parts: nn.Module) -> int:
    """Learned numbers; what several parts share counts once."""
    return sum(tensor.numel() for tensor in _distinct(chain.from_iterable(one.parameters() for one in parts)))


def weights_bytes(*parts: nn.Module) -> int:
    """Of parameters and buffers, in the types that they are kept in; what several parts share counts once."""
    tensors = chain.from_iterable((*one.parameters(), *one.buffers()) for one in parts)
    return sum(tensor.nbytes for tensor in _distinct(tensors))


def _distinct(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    return {id(tensor): tensor for tensor in tensors}.values()
