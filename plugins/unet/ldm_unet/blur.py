"""Resampling by a factor of two that does not alias: a small blur, as in StyleGAN 2 and NCSN++."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@final
class Blur(nn.Module):
    """Halve or double the resolution with the binomial filter (1, 3, 3, 1), zeros beyond the edge.

    Args:
        direction: `down` or `up`.
    """

    kernel: Tensor

    def __init__(self, direction: str) -> None:
        super().__init__()
        self.up = direction == "up"
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cpu")
        # Of sum 1 on the way down; on the way up, where three of four cells are new, of sum 4. Exact in any dtype.
        kernel = torch.outer(taps, taps) / (16 if self.up else 64)
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """[B, C, H, W] to [B, C, H / 2, W / 2], or to [B, C, 2 H, 2 W]."""
        weight = self.kernel.to(x).expand(x.shape[1], -1, -1, -1)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, weight, stride=2, padding=1, groups=x.shape[1])
