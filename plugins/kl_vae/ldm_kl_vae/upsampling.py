"""Nearest-neighbour upsampling and the 3x3 convolution after it in one: four 2x2 convolutions of the coarse map.

A 3x3 window on a map whose pixels were doubled sees only 2x2 different pixels; which of them coincide depends on
whether row and column are even or odd. The weights that meet the same pixel are summed beforehand: 16 products for a
coarse pixel and pair of channels instead of 36, and the doubled map is never made. As in sub-pixel convolution
(Shi et al. 2016, arXiv:1609.07009).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_kl_vae.in_place import is_unwatched

# Which of two neighbouring coarse rows each of the three weights meets, for even and for odd fine rows. An even row
# 2 i sees the coarse rows (i - 1, i, i), an odd row 2 i + 1 sees (i, i, i + 1).
MEETS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def can_fold(conv: nn.Module) -> bool:
    """Whether only the weights of a convolution matter: it is a plain one, and nobody watches or changes its call."""
    return type(conv) is nn.Conv2d and is_unwatched(conv)


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv2d(interpolate(x, scale_factor=2), weight, bias, padding=1)` up to rounding.

    The summed weights are made anew in each call, which takes a hundredth of its time, so that they follow the
    weights.

    Args:
        x: [B, C, H, W].
        weight: [K, C, 3, 3].
        bias: [K], or None.

    Returns:
        [B, K, 2 H, 2 W], in channels_last.
    """
    height, width = x.shape[2:]
    meets = torch.tensor(MEETS, dtype=weight.dtype, device=weight.device)
    kernels = torch.einsum("pay,qbx,kcyx->pqkcab", meets, meets, weight)
    out: Tensor | None = None
    for row, column in product((0, 1), repeat=2):
        phase = functional.conv2d(x, kernels[row, column], bias, padding=1)
        if out is None:
            shape = (len(x), len(weight), 2 * height, 2 * width)
            out = torch.empty(
                shape, dtype=phase.dtype, device=phase.device, memory_format=torch.channels_last
            )
        out[:, :, row::2, column::2] = phase[:, :, row : row + height, column : column + width]
    assert out is not None
    return out
