"""The three kinds of stage of a conditional UNet: one resolution down, the bottleneck, one resolution up."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_unet.block import Downsample
from ldm_unet.condition_attention import attention
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_plan import StagePlan
from ldm_unet.context import Context
from ldm_unet.residual import ResidualBlock, UpsampleTo


@final
class ConditionDownStage(nn.Module):
    """Residual blocks, each perhaps with attention, then perhaps a halving of the resolution.

    Args:
        config: Flavour and norms.
        plan: Sizes.
        in_channels: Channels in.
        last: Whether this is the coarsest stage, which keeps its resolution.
    """

    def __init__(self, config: UNetConditionConfig, plan: StagePlan, in_channels: int, *, last: bool) -> None:
        super().__init__()
        widths = [in_channels] + [plan.width] * (plan.layers - 1)
        self.resnets = nn.ModuleList([_residual(config, plan, width) for width in widths])
        self.attentions = _attentions(config, plan)
        self.downsamplers: nn.ModuleList | None = None
        if not last:
            self.downsamplers = nn.ModuleList(
                [
                    Downsample(plan.width, config.downsample_padding)
                    if plan.kind.resample == "conv"
                    else _residual(config, plan, plan.width, halves=True)
                ]
            )

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Context, skips: list[Tensor]
    ) -> Float[Tensor, "b k i j"]:
        """[B, in_channels, H, W] to [B, width, H / 2, W / 2], or H x W in the last stage.

        Args:
            x: Features.
            context: Time and text.
            skips: Every intermediate result is appended, for the way up.
        """
        for index, resnet in enumerate(self.resnets):
            x = resnet(x, context)
            if self.attentions is not None:
                x = self.attentions[index](x, context)
            skips.append(x)
        if self.downsamplers is not None:
            layer = self.downsamplers[0]
            x = layer(x, context) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        return x


@final
class ConditionMidStage(nn.Module):
    """The bottleneck: a residual block, and perhaps an attention and another residual block.

    Args:
        config: Flavour and norms.
        plan: Sizes.
    """

    def __init__(self, config: UNetConditionConfig, plan: StagePlan) -> None:
        super().__init__()
        raw_time = config.resnet_skip_time_act and plan.kind.attention == "joint"
        self.resnets = nn.ModuleList(
            [
                ResidualBlock(
                    config, plan.width, plan.width, scale=config.mid_block_scale_factor, raw_time=raw_time
                )
                for _ in range(plan.layers + 1)
            ]
        )
        self.attentions = _attentions(config, plan)

    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        """[B, C, H, W] to the same."""
        x = self.resnets[0](x, context)
        if self.attentions is not None:
            x = self.attentions[0](x, context)
            x = self.resnets[1](x, context)
        return x


@final
class ConditionUpStage(nn.Module):
    """Residual blocks that each take one result of the way down in, then perhaps an enlargement.

    Args:
        config: Flavour and norms.
        plan: Sizes.
        in_channels: Channels that come up from the coarser stage.
        skip_channels: Channels of the last skip, which stems from the next finer stage.
        last: Whether this is the finest stage, which keeps its resolution.
    """

    def __init__(
        self,
        config: UNetConditionConfig,
        plan: StagePlan,
        in_channels: int,
        skip_channels: int,
        *,
        last: bool,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [plan.width] * (plan.layers - 1)
        skips = [plan.width] * (plan.layers - 1) + [skip_channels]
        self.resnets = nn.ModuleList(
            [_residual(config, plan, width + skip) for width, skip in zip(widths, skips, strict=True)]
        )
        self.attentions = _attentions(config, plan)
        self.upsamplers: nn.ModuleList | None = None
        if not last:
            self.upsamplers = nn.ModuleList(
                [
                    UpsampleTo(plan.width)
                    if plan.kind.resample == "conv"
                    else _residual(config, plan, plan.width)
                ]
            )

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Context, skips: list[Tensor]
    ) -> Float[Tensor, "b k i j"]:
        """[B, in_channels, H, W] to [B, width, H', W'], where H' and W' are those of the next skip.

        Args:
            x: Features.
            context: Time and text.
            skips: Results of the way down; one is taken off the end for each residual block.
        """
        for index, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), context)
            if self.attentions is not None:
                x = self.attentions[index](x, context)
        if self.upsamplers is None:
            return x
        layer, size = self.upsamplers[0], (skips[-1].shape[2], skips[-1].shape[3])
        enlarged: Tensor = layer(x, context, size) if isinstance(layer, ResidualBlock) else layer(x, size)
        return enlarged


def _residual(
    config: UNetConditionConfig, plan: StagePlan, in_channels: int, *, halves: bool = False
) -> ResidualBlock:
    # In diffusers only the stages that resample with residual blocks obey these two keys.
    obeys = plan.kind.resample == "resnet"
    return ResidualBlock(
        config,
        in_channels,
        plan.width,
        scale=config.resnet_out_scale_factor if obeys else 1.0,
        raw_time=config.resnet_skip_time_act and obeys,
        halves=halves,
    )


def _attentions(config: UNetConditionConfig, plan: StagePlan) -> nn.ModuleList | None:
    if plan.kind.attention is None:
        return None
    # Only a transformer has depths.
    depths = plan.depths if plan.kind.attention == "cross" else (0,) * plan.layers
    return nn.ModuleList([attention(config, plan, depth) for depth in depths])
