"""What the keys of a conditional UNet come to, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_kind import DOWN_BLOCKS, MID_BLOCKS, UP_BLOCKS, BlockKind, modern

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage on the way down or up, or the bottleneck.

    Attributes:
        kind: What its block type stands for.
        width: Channels.
        layers: Residual blocks, or attentions in the bottleneck.
        heads: `attention_head_dim`: the heads of a transformer, but the channels of a head in other attention.
        text_width: Channels of the text that it reads.
        depths: Transformer blocks after each residual block.
        only_cross: Whether its attention reads text and never positions.
    """

    kind: BlockKind
    width: int
    layers: int
    heads: int
    text_width: int
    depths: tuple[int, ...]
    only_cross: bool


def down_plans(config: UNetConditionConfig) -> list[StagePlan]:
    """The stages on the way down, finest first."""
    count = len(config.block_out_channels)
    rows = zip(
        config.down_block_types,
        config.block_out_channels,
        spread(config.layers_per_block, count),
        spread(config.attention_head_dim, count),
        spread(config.cross_attention_dim, count),
        _depths(config),
        spread(config.only_cross_attention, count),
        strict=True,
    )
    return [
        StagePlan(DOWN_BLOCKS[modern(word)], width, layers, heads, text, spread(depth, layers)[:layers], only)
        for word, width, layers, heads, text, depth, only in rows
    ]


def up_plans(config: UNetConditionConfig) -> list[StagePlan]:
    """The stages on the way up, coarsest first; each has one residual block more than its partner."""
    depths = config.reverse_transformer_layers_per_block
    if depths is None:
        depths = _depths(config)[::-1]
    plans = []
    for index, (word, down) in enumerate(zip(config.up_block_types, down_plans(config)[::-1], strict=True)):
        kind, layers, heads = UP_BLOCKS[modern(word)], down.layers + 1, down.heads
        if kind.attention != "cross":
            # diffusers reverses the numbers of heads for the way up, and forgets the channels of a head.
            heads = spread(config.attention_head_dim, len(depths))[index]
        depth = spread(depths[index], layers)[:layers]
        plans.append(StagePlan(kind, down.width, layers, heads, down.text_width, depth, down.only_cross))
    return plans


def mid_plan(config: UNetConditionConfig) -> StagePlan | None:
    """The bottleneck, or None where there is none."""
    if config.mid_block_type is None:
        return None
    count = len(config.block_out_channels)
    kind = MID_BLOCKS[config.mid_block_type]
    only = config.mid_block_only_cross_attention
    if only is None:
        only = config.only_cross_attention is True
    depth = spread(_depths(config)[-1], 1)[:1]
    return StagePlan(
        kind,
        config.block_out_channels[-1],
        0 if kind.attention is None else 1,
        spread(config.attention_head_dim, count)[-1],
        spread(config.cross_attention_dim, count)[-1],
        depth,
        # Its transformer reads positions whatever the other stages do.
        only_cross=only and kind.attention == "joint",
    )


def all_plans(config: UNetConditionConfig) -> list[StagePlan]:
    """Every stage, in the order of the data flow."""
    mid = mid_plan(config)
    return [*down_plans(config), *([mid] if mid else []), *up_plans(config)]


def text_width(config: UNetConditionConfig) -> int | None:
    """Channels of the text embedding that the network takes; None where it takes none."""
    read = [plan.text_width for plan in all_plans(config) if plan.kind.reads_text]
    if config.addition_embed_type == "text" and isinstance(config.cross_attention_dim, int):
        read.append(config.cross_attention_dim)
    if not read:
        return None
    return config.encoder_hid_dim or read[0]


def least_side(config: UNetConditionConfig) -> int:
    """The smallest side of a latent, cells, that leaves a cell at the coarsest resolution."""
    # A padded convolution halves upwards, all other ways downwards.
    side = 1
    for plan in reversed(down_plans(config)[:-1]):
        upwards = plan.kind.resample == "conv" and config.downsample_padding == 1
        side = 2 * side - 1 if upwards else 2 * side
    return side


def spread(value: T | tuple[T, ...], count: int) -> tuple[T, ...]:
    """One value for each of `count` places."""
    return value if isinstance(value, tuple) else (value,) * count


def _depths(config: UNetConditionConfig) -> tuple[int | tuple[int, ...], ...]:
    depths = config.transformer_layers_per_block
    return (depths,) * len(config.block_out_channels) if isinstance(depths, int) else depths
