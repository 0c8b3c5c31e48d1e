"""The work in a call, counted while it runs: floating-point operations, and bytes that its operations move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WRITES_NOTHING = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
OVERWRITES = frozenset({"copy_", "fill_", "zero_"})
"""They do not read what they write to."""
READS_ROWS = frozenset({"embedding", "index", "index_select", "gather", "take_along_dim"})
"""They read as much of a table as they put out."""


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be done in a call, whatever does it.

    A multiplication with its addition counts as two operations, as everywhere. Activations, normalisations and a
    sampler's arithmetic are not counted as operations: what they take is the moving of their bytes.

    Attributes:
        convolution_flops: Of convolutions.
        matmul_flops: Of matrix products, attention and distances to a codebook.
        moved_bytes: Read and written by all operations, when none is fused with its neighbour and nothing stays in a
            cache.
    """

    convolution_flops: int = 0
    matmul_flops: int = 0
    moved_bytes: int = 0

    @property
    def flops(self) -> int:
        """All floating-point operations that are counted."""
        return self.convolution_flops + self.matmul_flops

    def times(self, calls: float) -> Work:
        """The work of so many calls, or of a share of one."""
        return Work(
            round(self.convolution_flops * calls),
            round(self.matmul_flops * calls),
            round(self.moved_bytes * calls),
        )

    def __add__(self, other: Work) -> Work:
        return Work(
            self.convolution_flops + other.convolution_flops,
            self.matmul_flops + other.matmul_flops,
            self.moved_bytes + other.moved_bytes,
        )


def counted(call: Callable[[], object]) -> Work:
    """Run a call once, slowly, and count its work.

    Args:
        call: Whatever it runs through torch counts, on any device; kernels that others bring do not.
    """
    counter = _Counter()
    with counter:
        call()
    return counter.work


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Of [B, heads, tokens, channels]: every query with every key, and the sum of the values."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _distances(one: Tensor, other: Tensor, *_: Any, **__: Any) -> int:
    """Of all pairs of [..., P, C] and [..., R, C]: as many as the matrix product that they can be written as."""
    return 2 * one.numel() * other.shape[-2]


FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    # torch itself knows the attention kernels of accelerators alone.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable: _attention,
    torch.ops.aten._cdist_forward: _distances,
    torch.ops.aten._euclidean_dist: _distances,
}
"""Floating-point operations by what torch calls; given its arguments, and its result as `out_val`."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its constructors untyped
    """Takes every operation apart as far as torch does, and adds up what is left.

    `torch.utils.flop_counter.FlopCounterMode` counts by the same formulas, at the price of importing the compiler.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.work = Work()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled while this counts, so that there is no compiler to keep out."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if packet not in FORMULAS:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        flops = FORMULAS[packet](*args, **kwargs, out_val=result) if packet in FORMULAS else 0
        is_convolution = "conv" in packet.__name__
        moved = _moved(func, list(_tensors((args, kwargs))), list(_tensors(result)))
        self.work += Work(flops if is_convolution else 0, 0 if is_convolution else flops, moved)
        return result


def _moved(func: Any, given: list[Tensor], made: list[Tensor]) -> int:
    name = func.overloadpacket.__name__
    owned = {tensor.untyped_storage()._cdata for tensor in given}
    is_view = not func._schema.is_mutable and all(one.untyped_storage()._cdata in owned for one in made)
    if is_view or name in WRITES_NOTHING:
        return 0
    written = _bytes(made)
    if name in READS_ROWS:
        return 2 * written
    return _bytes(given[1:] if name in OVERWRITES else given) + written


def _bytes(tensors: Iterable[Tensor]) -> int:
    """In memory: what is only repeated by its strides counts once."""
    return sum(
        min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) for tensor in tensors
    )


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from _tensors(value)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _tensors(value)
