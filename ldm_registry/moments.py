"""Mean and variance of groups of channels over large maps, part by part, without losing digits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn


class Like(Protocol):
    """What says where and in which precision."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""

    @property
    def device(self) -> torch.device:
        """Where they are."""


def rows(x: Tensor) -> Tensor:
    """[B, C, H, W] to [B * H * W, C]; a view where the memory is in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def group_moments(parts: Iterable[Tensor], groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels over all rows of all parts.

    Each part is centred before it is squared, and the parts are merged in double precision as in Chan et al. 1979,
    "Updating formulae and a pairwise algorithm for computing sample variances": neither a large mean nor a large
    number of rows costs digits.

    Args:
        parts: Each [N, C] with an N of its own.
        groups: Groups of C / groups channels.

    Returns:
        Mean and (biased) variance, float64 [groups] on the CPU.
    """
    # Updated in place: small tensors that stay, made between large ones that go, would leave holes in the heap.
    count, mean, squares = 0, torch.zeros(0), torch.zeros(0)
    for part in parts:
        exact = part.to(torch.promote_types(part.dtype, torch.float32))
        centre = exact.mean(dim=0)
        spread = (exact - centre).square_().sum(dim=0)
        if not count:
            mean, squares = torch.zeros(2, part.shape[1], dtype=torch.float64, device="cpu").unbind()
        step = centre.cpu().double() - mean
        total = count + len(part)
        squares.add_(spread.cpu()).addcmul_(step, step, value=count * len(part) / total)
        mean.add_(step, alpha=len(part) / total)
        count = total
    centres, spreads = mean.view(groups, -1), (squares / count).view(groups, -1)
    group_mean = centres.mean(dim=1)
    return group_mean, (spreads + (centres - group_mean[:, None]).square()).mean(dim=1)


def scale_and_shift(norm: nn.GroupNorm, mean: Tensor, variance: Tensor, like: Like) -> tuple[Tensor, Tensor]:
    """A group normalisation under given moments as `x * scale + shift`.

    Args:
        norm: Its weights and epsilon count.
        mean: float64 [groups] on the CPU.
        variance: Likewise.
        like: Something of the dtype and on the device of x.

    Returns:
        Scale and shift [1, C, 1, 1].
    """
    rstd = (variance + norm.eps).rsqrt()
    each = norm.num_channels // norm.num_groups
    scale, shift = rstd.repeat_interleave(each), (-mean * rstd).repeat_interleave(each)
    if norm.affine:
        weight, bias = norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double()
        scale, shift = scale * weight, shift * weight + bias
    return scale.to(like.device, like.dtype).view(1, -1, 1, 1), shift.to(like.device, like.dtype).view(
        1, -1, 1, 1
    )
