"""Results of layers overwritten by the next step, where nobody else can see them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.linear import TokenLinear
from ldm_unet.convolution import Convolution

_FRESH = (nn.GroupNorm, Convolution, TokenLinear)
"""Layers that never hand out what went in, as an identity does."""


def is_unwatched(layer: nn.Module) -> bool:
    """Whether nobody watches or changes the calls of a layer."""
    return not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def may_overwrite(made_by: nn.Module) -> bool:
    """Whether what a layer has just made may be overwritten: no gradient needs it, and nobody recorded it."""
    return not torch.is_grad_enabled() and type(made_by) in _FRESH and is_unwatched(made_by)


def activated(activation: Callable[[Tensor], Tensor], x: Tensor, made_by: nn.Module) -> Tensor:
    """`activation(x)`, in the memory of `x` where it may be.

    Args:
        activation: A function.
        x: What it is applied to.
        made_by: The layer that has just made it.
    """
    if activation is F.silu and may_overwrite(made_by):
        return F.silu(x, inplace=True)
    return activation(x)


def added(x: Tensor, to: Tensor, made_by: nn.Module) -> Tensor:
    """`x + to`, in the memory of `to` where it may be.

    Args:
        x: Left as it is; no larger than `to`.
        to: What it is added to.
        made_by: The layer that has just made `to`.
    """
    return to.add_(x) if x.dtype == to.dtype and may_overwrite(made_by) else x + to
