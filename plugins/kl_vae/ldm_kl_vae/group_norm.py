"""Group normalisation that keeps its digits on large maps in channels_last."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ldm_registry.moments import group_moments, rows, scale_and_shift

LARGE = 2**14
"""Positions from which PyTorch's sums are off by more than rounding: 4e-6 of a standard deviation at 256 x 256
positions, 3e-4 at 1024 x 1024 (on the CPU, in channels_last; 5e-8 otherwise)."""

PART = 2**18
"""Values in a part of a map, few enough for the cache of a core."""


@final
class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018); the moments of large maps are gathered part by part."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        large = x.shape[2] * x.shape[3] >= LARGE and x.is_contiguous(memory_format=torch.channels_last)
        # A compiled graph has a kernel of its own, and gradients need the operator that knows its derivative.
        others = torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu"
        if others or not large:
            return super().forward(x)
        scales, shifts = zip(*(self._scale_and_shift(one) for one in torch.split(x, 1)), strict=True)
        return torch.addcmul(torch.cat(shifts), x, torch.cat(scales))

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.split(rows(x), max(1, PART // self.num_channels))
        return scale_and_shift(self, *group_moments(parts, self.num_groups), like=x)
