"""Stages beside which an image runs: read on the way down, painted on the way up (NCSN++, Song et al. 2021)."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_unet.block import Attention, ResnetBlock
from ldm_unet.blur import Blur
from ldm_unet.config import UNetConfig
from ldm_unet.convolution import Convolution
from ldm_unet.stage_kind import ATTENTION_GROUPS, StageKind, default_groups, joined_groups

IMAGE_CHANNELS = 3
_SCALE = math.sqrt(2.0)
"""What residual sums are divided by, so that they keep their variance."""


@final
class ImageDownStage(nn.Module):
    """Residual blocks, each perhaps with attention; then half the resolution, where the image is added.

    Args:
        config: Flavour and norms.
        kind: What the block type stands for.
        in_channels: Channels in.
        out_channels: Channels out.
        last: Whether this is the coarsest stage, which keeps its resolution and sees no image.
    """

    def __init__(
        self, config: UNetConfig, kind: StageKind, in_channels: int, out_channels: int, *, last: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.layers_per_block - 1)
        groups = default_groups(out_channels)
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(config, width, out_channels, scale=_SCALE, groups=(default_groups(width), groups))
                for width in widths
            ]
        )
        self.attentions = nn.ModuleList(
            [
                Attention(config, out_channels, ATTENTION_GROUPS, scale=_SCALE)
                for _ in widths
                if kind.attention
            ]
        )
        self.resnet_down: ResnetBlock | None = None
        self.skip_conv: Convolution | None = None
        if not last:
            self.resnet_down = _resampling(config, out_channels, "down")
            self.skip_conv = Convolution(IMAGE_CHANNELS, out_channels, 1)
            self.blur = Blur("down")

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, "t d"],
        skips: list[Tensor],
        image: Float[Tensor, "b n p q"],
    ) -> tuple[Float[Tensor, "b k i j"], Float[Tensor, "b n r s"]]:
        """[B, in_channels, H, W] to [B, out_channels, H / 2, W / 2], and the image alike; H x W in the last stage.

        Args:
            x: Features.
            time: The activated time embedding, [1 or B, D].
            skips: Every intermediate result is appended, for the way up.
            image: The network's input at this resolution, [B, 3, H, W]; of no account in the last stage.
        """
        for index, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[index](x)
            skips.append(x)
        if self.resnet_down is not None and self.skip_conv is not None:
            image = self.blur(image)
            x = self.skip_conv(image) + self.resnet_down(x, time)
            skips.append(x)
        return x, image


@final
class ImageUpStage(nn.Module):
    """Residual blocks that each take one result of the way down in; a brush stroke; then twice the resolution.

    Args:
        config: Flavour and norms.
        kind: What the block type stands for.
        in_channels: Channels that come up from the coarser stage.
        skip_channels: Channels of the last skip, which stems from the next finer stage.
        out_channels: Channels out, and of all other skips.
        last: Whether this is the finest stage, which keeps its resolution and paints no more.
    """

    def __init__(
        self,
        config: UNetConfig,
        kind: StageKind,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        last: bool,
    ) -> None:
        super().__init__()
        layers = config.layers_per_block + 1
        widths = [in_channels] + [out_channels] * (layers - 1)
        skips = [out_channels] * (layers - 1) + [skip_channels]
        groups = default_groups(out_channels)
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(
                    config,
                    width + skip,
                    out_channels,
                    scale=_SCALE,
                    groups=(joined_groups(kind, width, skip), groups),
                )
                for width, skip in zip(widths, skips, strict=True)
            ]
        )
        # One for the stage, not one for each block as on the way down.
        attention = (
            [Attention(config, out_channels, ATTENTION_GROUPS, scale=_SCALE)] if kind.attention else []
        )
        self.attentions = nn.ModuleList(attention)
        self.blur = Blur("up")
        self.resnet_up: ResnetBlock | None = None
        self.skip_conv: Convolution | None = None
        self.skip_norm: nn.GroupNorm | None = None
        if not last:
            self.resnet_up = _resampling(config, out_channels, "up")
            self.skip_conv = Convolution(out_channels, IMAGE_CHANNELS, 3, padding=1)
            self.skip_norm = nn.GroupNorm(groups, out_channels, config.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, "t d"],
        skips: list[Tensor],
        image: Float[Tensor, "b n i j"] | None,
    ) -> tuple[Float[Tensor, "b k p q"], Float[Tensor, "b n h w"] | None]:
        """[B, in_channels, H, W] to [B, out_channels, 2 H, 2 W], or H x W in the last stage; and the image, H x W.

        Args:
            x: Features.
            time: The activated time embedding, [1 or B, D].
            skips: Results of the way down; one is taken off the end for each residual block.
            image: What coarser stages have painted, [B, 3, H / 2, W / 2]; None if none has.
        """
        for resnet in self.resnets:
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
        for attention in self.attentions:
            x = attention(x)
        if image is not None:
            image = self.blur(image)
        if self.resnet_up is None or self.skip_conv is None or self.skip_norm is None:
            return x, image
        stroke: Tensor = self.skip_conv(F.silu(self.skip_norm(x)))
        return self.resnet_up(x, time), stroke if image is None else image + stroke


def _resampling(config: UNetConfig, channels: int, direction: str) -> ResnetBlock:
    groups = default_groups(channels)
    return ResnetBlock(
        config,
        channels,
        channels,
        scale=_SCALE,
        groups=(groups, groups),
        resample=direction,
        blurred=True,
    )
