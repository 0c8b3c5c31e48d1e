"""Optimisers and learning rates, as functions of the settings and the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from ldm_registry.training.muon import Muon, suits
from ldm_registry.training.settings import LoopSettings
from ldm_registry.training.sharding import is_in_parts

ADAM_EPSILON = 1e-8


def optimizers_for(
    modules: Mapping[str, nn.Module], settings: LoopSettings
) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of all trainable parameters of some modules.

    Args:
        modules: By name.
        settings: Of the run.

    Returns:
        By name; each group remembers its peak learning rate as `peak_lr`.
    """
    named = [
        (f"{prefix}.{name}", parameter)
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    matrices = [
        parameter for name, parameter in named if settings.optimizer == "muon" and suits(name, parameter)
    ]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    found: dict[str, torch.optim.Optimizer] = {}
    if matrices:
        found["muon"] = Muon(matrices, settings.muon_learning_rate, weight_decay=settings.weight_decay)
    if rest:
        found["adamw"] = adamw(rest, settings, settings.betas)
    for optimizer in found.values():
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return found


def adamw(
    parameters: list[nn.Parameter], settings: LoopSettings, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW whose matrices decay and whose vectors (biases, norms) do not."""
    groups = [
        {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=betas,
        eps=ADAM_EPSILON,
        fused=all(one.device.type in ("cpu", "cuda") and not is_in_parts(one) for one in parameters),
    )


def set_learning_rate(
    optimizers: Mapping[str, torch.optim.Optimizer], settings: LoopSettings, step: int
) -> float:
    """Give every optimiser the rate of this step; returns its share of the peak."""
    share = rate_share(settings, step)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
    return share


def rate_share(settings: LoopSettings, step: int) -> float:
    """The learning rate of a step (from 0) as a share of its peak."""
    rise = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    done = min(1.0, max(0.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup)))
    match settings.decay:
        case "constant":
            return rise
        case "linear":
            return rise * (1.0 - done)
        case "cosine":
            return rise * 0.5 * (1.0 + math.cos(math.pi * done))
