"""The group norms that a UNet is made of, before it is made: which have to divide which channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ldm_unet.config import UNetConfig
from ldm_unet.stage_kind import (
    ATTENTION_GROUPS,
    DOWN_BLOCKS,
    UP_BLOCKS,
    StageKind,
    default_groups,
    joined_groups,
)

_FROM_CONFIG = "norm_num_groups"
_FROM_WIDTH = "the number of groups that follows from its width,"


@dataclass(frozen=True, slots=True)
class NormPlan:
    """One group norm.

    Attributes:
        where: In the network.
        channels: That it norms.
        groups: That divide them; None where the config would have to say.
        said: What fixes the groups.
        joined: Whether the channels are the sum of two widths.
    """

    where: str
    channels: int
    groups: int | None
    said: str = _FROM_CONFIG
    joined: bool = False


def norms(config: UNetConfig) -> Iterator[NormPlan]:
    """Every norm of a network whose block types are known and as many as its widths."""
    yield from _down(config)
    yield from _mid(config)
    yield from _up(config)
    width = config.block_out_channels[0]
    yield NormPlan(f"block_out_channels[0] = {width}", width, config.norm_num_groups or default_groups(width))


def _down(config: UNetConfig) -> Iterator[NormPlan]:
    narrow = config.block_out_channels[0]
    for word, width in zip(config.down_block_types, config.block_out_channels, strict=True):
        kind, where = DOWN_BLOCKS[word], f"{word} of block_out_channels {width}"
        yield from _stage(config, kind, where, [(narrow, 0), (width, 0)], width)
        narrow = width


def _up(config: UNetConfig) -> Iterator[NormPlan]:
    widths = config.block_out_channels[::-1]
    below = widths[0]
    for word, width, above in zip(config.up_block_types, widths, (*widths[1:], widths[-1]), strict=True):
        kind, where = UP_BLOCKS[word], f"{word} of block_out_channels {width}"
        # The first block joins what comes up with a skip of its own width, the last one a skip from above.
        yield from _stage(config, kind, where, [(below, width), (width, width), (width, above)], width)
        below = width


def _mid(config: UNetConfig) -> Iterator[NormPlan]:
    if config.mid_block_type is None:
        return
    width = config.block_out_channels[-1]
    where = f"the bottleneck of block_out_channels {width}"
    yield NormPlan(where, width, config.norm_num_groups or default_groups(width))
    if config.add_attention and config.bottleneck_norm_groups is not None:
        said = _FROM_CONFIG if config.attn_norm_num_groups is None else "attn_norm_num_groups"
        yield NormPlan(where, width, config.bottleneck_norm_groups, said)


def _stage(
    config: UNetConfig, kind: StageKind, where: str, joined: Sequence[tuple[int, int]], width: int
) -> Iterator[NormPlan]:
    if not kind.carries_image:
        yield NormPlan(where, width, config.norm_num_groups)
        for channels, skip in joined:
            yield NormPlan(where, channels + skip, config.norm_num_groups, joined=skip > 0)
        return
    yield NormPlan(where, width, default_groups(width), _FROM_WIDTH)
    for channels, skip in joined:
        groups = joined_groups(kind, channels, skip) if skip else default_groups(channels)
        yield NormPlan(where, channels + skip, groups, _FROM_WIDTH, joined=skip > 0)
    if kind.attention:
        yield NormPlan(where, width, ATTENTION_GROUPS, "its attention's groups,")
