"""Repetition of cells and the 3x3 convolution after it in one: four 2x2 convolutions of the coarse map.

A 3x3 window on a map whose cells were doubled sees only 2x2 different cells; which of them coincide depends on whether
row and column are even or odd. The weights that meet the same cell are summed beforehand: 16 products for a coarse
cell and pair of channels instead of 36, and the doubled map is never made. As in sub-pixel convolution (Shi et al.
2016, arXiv:1609.07009).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_unet.convolution import LARGE, Convolution
from ldm_unet.in_place import is_unwatched

LEAST = 256
"""Coarse cells from which folding was measured to pay: below, summing the weights takes longer than it saves."""


def folds(x: Tensor, conv: nn.Module) -> bool:
    """Whether a convolution behind a doubling of `x` is folded: where it is exact enough, pays, and nobody watches it.

    In short types the summed weights would be rounded once more, and gradients take the plain way.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and len(x) * x.shape[2] * x.shape[3] >= LEAST
        and not torch.is_grad_enabled()
        and type(conv) is Convolution
        and is_unwatched(conv)
    )


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv2d(interpolate(x, scale_factor=2), weight, bias, padding=1)` up to rounding.

    The summed weights are made anew in each call, so that they follow the weights.

    Args:
        x: [B, C, H, W].
        weight: [K, C, 3, 3].
        bias: [K], or None.

    Returns:
        [B, K, 2 H, 2 W], in the layout that a `Convolution` would give it.
    """
    height, width = x.shape[2:]
    shape = (len(x), len(weight), 2 * height, 2 * width)
    layout = torch.channels_last if shape[2] * shape[3] < LARGE else torch.contiguous_format
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    kernels = [_pairs(half, dim=3) for half in _pairs(weight, dim=2)]
    for row, column in product((0, 1), repeat=2):
        phase = F.conv2d(x, kernels[row][column], bias, padding=1)
        out[:, :, row::2, column::2] = phase[:, :, row : row + height, column : column + width]
    return out


def _pairs(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Weights that meet the two coarse cells that an even, and that an odd, fine cell sees along a dimension."""
    first, middle, last = torch.split(weight, 1, dim)
    return torch.cat([first, middle + last], dim), torch.cat([first + middle, last], dim)
