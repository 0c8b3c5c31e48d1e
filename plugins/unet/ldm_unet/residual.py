"""Residual blocks and resamplings of a conditional UNet, for latents of any size."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_unet.block import ACTIVATION
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.context import Context
from ldm_unet.convolution import Convolution
from ldm_unet.in_place import activated, added
from ldm_unet.upsampling import folds, upsampled_conv

Size = tuple[int, int]


@final
class ResidualBlock(nn.Module):
    """Norm, activate, convolve, twice, around a shortcut; time enters before or at the second norm.

    Args:
        config: Flavour and norms.
        in_channels: Channels in.
        out_channels: Channels out.
        scale: What the sum with the shortcut is divided by.
        raw_time: Whether it takes the time embedding without activation.
        halves: Whether it averages 2 x 2 cells between the two halves.
    """

    def __init__(
        self,
        config: UNetConditionConfig,
        in_channels: int,
        out_channels: int,
        *,
        scale: float = 1.0,
        raw_time: bool = False,
        halves: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.raw_time = raw_time
        self.halves = halves
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.activation = ACTIVATION[config.act_fn]
        groups, eps = config.groups, config.norm_eps
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = Convolution(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(
            config.block_time_dim, 2 * out_channels if self.scale_shift else out_channels
        )
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = Convolution(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            Convolution(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Context, size: Size | None = None
    ) -> Float[Tensor, "b k i j"]:
        """[B, in_channels, H, W] to [B, out_channels, H', W'].

        Args:
            x: Features.
            context: Time.
            size: H', W' of a block that enlarges; None for any other.
        """
        h = activated(self.activation, self.norm1(x), self.norm1)
        if self.halves:
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        elif size is not None:
            x, h = enlarge(x, size), enlarge(h, size)
        h = self.conv1(h)
        shift: Tensor = self.time_emb_proj(context.raw_time if self.raw_time else context.time)[
            :, :, None, None
        ]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(added(shift, h, self.conv1))
        h = self.conv2(self.dropout(activated(self.activation, h, self.norm2)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        h = added(x, h, self.conv2)
        return h if self.scale == 1.0 else h / self.scale


@final
class UpsampleTo(nn.Module):
    """Enlarge by repetition to a given size, then convolve.

    Args:
        channels: In and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c i j"]:
        """[B, channels, H, W] to [B, channels, *size]."""
        if size == (2 * x.shape[2], 2 * x.shape[3]) and folds(x, self.conv):
            return upsampled_conv(x, self.conv.weight, self.conv.bias)
        enlarged: Tensor = self.conv(enlarge(x, size))
        return enlarged


def enlarge(x: Tensor, size: Size) -> Tensor:
    """The nearest cell for each cell of a larger grid; exactly twice each where the size is double."""
    return F.interpolate(x, size=size, mode="nearest")
