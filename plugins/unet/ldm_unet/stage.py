"""The three kinds of stage: one resolution on the way down, the bottleneck, one resolution on the way up."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_unet.block import Attention, Downsample, ResnetBlock, Upsample
from ldm_unet.config import UNetConfig
from ldm_unet.stage_kind import StageKind


@final
class DownStage(nn.Module):
    """Residual blocks, each perhaps with attention, then perhaps a halving of the resolution.

    Args:
        config: Flavour and norms.
        kind: What the block type stands for.
        in_channels: Channels in.
        out_channels: Channels out.
        last: Whether this is the coarsest stage, which keeps its resolution.
    """

    def __init__(
        self, config: UNetConfig, kind: StageKind, in_channels: int, out_channels: int, *, last: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList([ResnetBlock(config, width, out_channels) for width in widths])
        self.attentions = _attentions(config, kind, out_channels, config.layers_per_block)
        self.downsamplers: nn.ModuleList | None = None
        if not last:
            resample = kind.resample or config.downsample_type
            self.downsamplers = nn.ModuleList(
                [
                    Downsample(out_channels, config.downsample_padding)
                    if resample == "conv"
                    else ResnetBlock(config, out_channels, out_channels, resample="down")
                ]
            )

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "t d"], skips: list[Tensor]
    ) -> Float[Tensor, "b k i j"]:
        """[B, in_channels, H, W] to [B, out_channels, H / 2, W / 2], or H x W in the last stage.

        Args:
            x: Features.
            time: The activated time embedding, [1 or B, D].
            skips: Every intermediate result is appended, for the way up.
        """
        for index, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions is not None:
                x = self.attentions[index](x)
            skips.append(x)
        if self.downsamplers is not None:
            x = _resample(self.downsamplers[0], x, time)
            skips.append(x)
        return x


@final
class MidStage(nn.Module):
    """The bottleneck: residual block, attention, residual block.

    Args:
        config: Flavour and norms.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, scale = config.block_out_channels[-1], config.mid_block_scale_factor
        self.resnets = nn.ModuleList([ResnetBlock(config, width, width, scale=scale) for _ in range(2)])
        attention = [Attention(config, width, config.bottleneck_norm_groups, scale=scale)]
        self.attentions = nn.ModuleList(attention if config.add_attention else [])

    def forward(self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "t d"]) -> Float[Tensor, "b c h w"]:
        """[B, C, H, W] to the same, given the activated time embedding [1 or B, D]."""
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x)
        x = self.resnets[1](x, time)
        return x


@final
class UpStage(nn.Module):
    """Residual blocks that each take one result of the way down in, then perhaps a doubling of the resolution.

    Args:
        config: Flavour and norms.
        kind: What the block type stands for.
        in_channels: Channels that come up from the coarser stage.
        skip_channels: Channels of the last skip, which stems from the next finer stage.
        out_channels: Channels out, and of all other skips.
        last: Whether this is the finest stage, which keeps its resolution.
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
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(config, width + skip, out_channels)
                for width, skip in zip(widths, skips, strict=True)
            ]
        )
        self.attentions = _attentions(config, kind, out_channels, layers)
        self.upsamplers: nn.ModuleList | None = None
        if not last:
            resample = kind.resample or config.upsample_type
            self.upsamplers = nn.ModuleList(
                [
                    Upsample(out_channels)
                    if resample == "conv"
                    else ResnetBlock(config, out_channels, out_channels, resample="up")
                ]
            )

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "t d"], skips: list[Tensor]
    ) -> Float[Tensor, "b k i j"]:
        """[B, in_channels, H, W] to [B, out_channels, 2 H, 2 W], or H x W in the last stage.

        Args:
            x: Features.
            time: The activated time embedding, [1 or B, D].
            skips: Results of the way down; one is taken off the end for each residual block.
        """
        for index, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
            if self.attentions is not None:
                x = self.attentions[index](x)
        return x if self.upsamplers is None else _resample(self.upsamplers[0], x, time)


def _attentions(config: UNetConfig, kind: StageKind, channels: int, layers: int) -> nn.ModuleList | None:
    if not kind.attention:
        return None
    return nn.ModuleList([Attention(config, channels, config.norm_num_groups) for _ in range(layers)])


def _resample(layer: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    resized: Tensor = layer(x, time) if isinstance(layer, ResnetBlock) else layer(x)
    return resized
