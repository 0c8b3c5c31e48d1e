"""The linear layer that makes modulations: few rows against many weights."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEW = 32
"""Rows up to which reading the weights is most of the work."""

HEAVY = 2**17
"""Weights from which it is worth a few more calls."""


@final
class Modulation(nn.Linear):
    """A linear layer with a row for each sample, or one for all.

    Its time goes into reading the weights. PyTorch's product is made for many rows: it packs the weights before it
    uses them, and leaves a single row to one thread. Without gradients, on the CPU, the weights are therefore the left
    side of the product, a block of their rows for each thread.
    """

    def forward(self, x: Float[Tensor, "b k"]) -> Float[Tensor, "b n"]:
        """[B, in_features] to [B, out_features]."""
        if not self._reads_weights(x):
            return super().forward(x)
        blocks = math.gcd(torch.get_num_threads(), self.out_features)
        weight = self.weight.view(blocks, -1, self.in_features)
        product = torch.bmm(weight, x.t().expand(blocks, -1, -1))
        # The sum takes the layout of its first term; the modulations are read channel by channel.
        return torch.add(self.bias.expand(len(x), -1).contiguous(), product.flatten(0, 1).t())

    def _reads_weights(self, x: Tensor) -> bool:
        return (
            len(x) <= FEW
            and self.weight.numel() >= HEAVY
            and self.weight.is_contiguous()
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        )
