"""Results of layers overwritten by the next step, where nobody else can see them.

A fresh map of more than a few megabytes costs as much again as filling it, because the system hands out its pages one
by one; without gradients half of the maps need not be made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_kl_vae.group_norm import GroupNorm


def is_unwatched(layer: nn.Module) -> bool:
    """Whether nobody watches or changes the calls of a layer."""
    return not any(
        (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    )


def may_overwrite(made_by: nn.Module) -> bool:
    """Whether what a layer has just made may be overwritten.

    No gradient needs it, nobody recorded it, and it is no view of what went in, as it would be behind an identity.
    """
    return not torch.is_grad_enabled() and type(made_by) in (GroupNorm, nn.Conv2d) and is_unwatched(made_by)


def activated(activation: nn.Module, x: Tensor, made_by: nn.Module) -> Tensor:
    """`activation(x)`, in the memory of `x` where it may be.

    Args:
        activation: The activation.
        x: What it is applied to.
        made_by: The layer that has just made it.
    """
    if type(activation) is nn.SiLU and is_unwatched(activation) and may_overwrite(made_by):
        return functional.silu(x, inplace=True)
    out: Tensor = activation(x)
    return out


def added(x: Tensor, to: Tensor, made_by: nn.Module) -> Tensor:
    """`x + to`, in the memory of `to` where it may be; the same shape.

    Args:
        x: Left as it is.
        to: What it is added to.
        made_by: The layer that has just made `to`.
    """
    return to.add_(x) if x.dtype == to.dtype and may_overwrite(made_by) else x + to
