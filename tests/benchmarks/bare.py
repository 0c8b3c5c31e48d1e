"""What nobody can leave out of a network: its convolutions, matrix products and attentions, by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pair import Side
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

HEAVY = (F.linear, F.conv2d, torch.conv2d, torch.matmul, torch.bmm, F.scaled_dot_product_attention)
"""Operations that torch does as fast as it can: what is around them is what one can be faster at."""


class _Recording(TorchFunctionMode):
    """Keeps every call of a heavy operation, with what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in HEAVY:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def bare(side: Side) -> Side:
    """The heavy operations of some work, one after the other, on the very tensors that they had in it.

    Args:
        side: The work; it is done once, and what its operations were given stays in the memory.

    Returns:
        Does them again; its outcome is that of the work when it was done.
    """
    with _Recording() as recording:
        outcome = side()

    def again() -> Tensor:
        for function, args, kwargs in recording.calls:
            function(*args, **kwargs)
        return outcome

    assert recording.calls, "nothing heavy in it"
    return again
