"""Muon: momentum whose update of each weight matrix is made orthogonal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that push singular values towards 1 fastest (Jordan et al. 2024, "Muon")."""

ADAM_LAYERS = ("conv_in", "conv_out", "quant", "embed", "proj_out", "discriminator")
"""Parts of names of layers at the ends of a network; Muon is meant for hidden matrices alone."""


@final
class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by five Newton-Schulz steps (Jordan et al. 2024).

    Args:
        parameters: Of two or more dimensions; the trailing ones count as one.
        lr: Step size; multiplied by `sqrt(max(1, rows / columns))`.
        momentum: In [0, 1).
        weight_decay: Decoupled, times the step size.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure, so no loss to return
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1.0 - momentum)
                update = orthogonalised(parameter.grad.lerp(average, momentum).flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1.0 - lr * group["weight_decay"])
                parameter.add_(update.view(parameter.shape), alpha=-lr * scale)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix to the polar factor of `matrix` that a few quintic Newton-Schulz steps reach.

    Args:
        matrix: [M, N], any scale.
        steps: Iterations; five bring the singular values to about 0.7 ... 1.2.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()


def suits(name: str, parameter: Tensor) -> bool:
    """Whether Muon is meant for a parameter: a matrix, and not at an end of the network."""
    return parameter.ndim >= 2 and not any(part in name for part in ADAM_LAYERS)
