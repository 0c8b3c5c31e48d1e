"""Whether shorter ways may be taken around layers, or whether somebody looks at them."""

from __future__ import annotations

import torch
from torch import nn

from ldm_registry.linear import TokenLinear


def is_unwatched(layer: nn.Module) -> bool:
    """Whether nobody watches or changes the calls of a layer."""
    return not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def may_overwrite(made_by: nn.Module) -> bool:
    """Whether what a layer has just made may be overwritten: no gradient needs it, and nobody recorded it."""
    return (
        not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        and type(made_by) is TokenLinear
        and is_unwatched(made_by)
    )
