"""Every reason why a UNet's config cannot be built, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ldm_registry.errors import did_you_mean
from ldm_unet.config import (
    ACTIVATIONS,
    CLASS_EMBEDDINGS,
    MID_BLOCKS,
    RESAMPLINGS,
    TIME_EMBEDDINGS,
    TIME_SHIFTS,
    UNetConfig,
)
from ldm_unet.norm_plan import NormPlan, norms
from ldm_unet.stage_kind import DOWN_BLOCKS, UP_BLOCKS, StageKind

_IMAGE_CHANNELS = 3


def problems(config: UNetConfig) -> Iterator[str]:
    """A sentence for each value that is not built or contradicts another."""
    words = list(_wrong_words(config))
    yield from words
    lengths = len(config.down_block_types), len(config.up_block_types), len(config.block_out_channels)
    matched = len(set(lengths)) == 1
    if not matched:
        yield (
            f"down_block_types, up_block_types and block_out_channels have {lengths[0]}, {lengths[1]} and "
            f"{lengths[2]} entries; each needs one for every resolution"
        )
    yield from _wrong_channels(config)
    if matched and not words:
        yield from _wrong_norms(config)
        yield from _wrong_images(config)
    yield from _wrong_times(config)
    yield from _wrong_classes(config)


def _wrong_words(config: UNetConfig) -> Iterator[str]:
    yield from _not_among("down_block_types", config.down_block_types, DOWN_BLOCKS)
    yield from _not_among("up_block_types", config.up_block_types, UP_BLOCKS)
    yield from _not_among("mid_block_type", [config.mid_block_type], MID_BLOCKS)
    yield from _not_among("time_embedding_type", [config.time_embedding_type], TIME_EMBEDDINGS)
    yield from _not_among("downsample_type", [config.downsample_type], RESAMPLINGS)
    yield from _not_among("upsample_type", [config.upsample_type], RESAMPLINGS)
    yield from _not_among("act_fn", [config.act_fn], ACTIVATIONS)
    yield from _not_among("resnet_time_scale_shift", [config.resnet_time_scale_shift], TIME_SHIFTS)
    yield from _not_among("class_embed_type", [config.class_embed_type], CLASS_EMBEDDINGS)


def _wrong_channels(config: UNetConfig) -> Iterator[str]:
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        yield (
            f"out_channels is {config.out_channels}; expected {config.in_channels}, "
            f"or {2 * config.in_channels} with a learned variance"
        )
    head = config.attention_head_dim
    for width in dict.fromkeys(config.block_out_channels):
        if width < 1:
            yield f"block_out_channels has {width}; expected at least 1"
        elif head is not None and width < head and width in _attended_widths(config):
            yield f"block_out_channels has {width} with attention, less than attention_head_dim {head}"


def _attended_widths(config: UNetConfig) -> set[int]:
    """Widths of the levels that have attention; of the others attention_head_dim says nothing."""
    widths = config.block_out_channels
    down = zip(config.down_block_types, widths, strict=False)
    up = zip(config.up_block_types, reversed(widths), strict=False)
    attended = {width for block, width in (*down, *up) if block.startswith("Attn")}
    return attended | ({widths[-1]} if config.add_attention and config.mid_block_type else set())


def _wrong_norms(config: UNetConfig) -> Iterator[str]:
    failing: dict[tuple[object, ...], NormPlan] = {}
    for norm in norms(config):
        if norm.groups is None or norm.groups < 1 or norm.channels % norm.groups:
            channels = norm.channels if norm.groups is not None else None
            failing.setdefault((channels, norm.groups, norm.said), norm)
    # Two widths that fit have a sum that fits, wherever one number of groups serves all.
    single = [norm for norm in failing.values() if not norm.joined]
    for norm in single or failing.values():
        if norm.groups is None:
            yield f"norm_num_groups is null, but {norm.where} needs it; give a number, or use Skip blocks alone"
        else:
            yield f"{norm.where} has {norm.channels} channels, not a multiple of {norm.said} {norm.groups}"


def _wrong_images(config: UNetConfig) -> Iterator[str]:
    down = [DOWN_BLOCKS[word] for word in config.down_block_types[:-1]]
    if any(kind.carries_image for kind in down) and config.in_channels != _IMAGE_CHANNELS:
        yield f"in_channels is {config.in_channels}; Skip blocks on the way down read an image of 3 channels"
    if not _in_a_row(down):
        yield "down_block_types has a Skip block after one without: no image of its resolution is left to read"
    up = [UP_BLOCKS[word] for word in config.up_block_types]
    painted = any(kind.carries_image for kind in up[:-1])
    if painted and config.out_channels != _IMAGE_CHANNELS:
        yield f"out_channels is {config.out_channels}; Skip blocks on the way up paint an image of 3 channels"
    if painted and not _in_a_row(up[::-1]):
        yield "up_block_types has a block without Skip after one with: nothing brings its image to full resolution"


def _in_a_row(kinds: Sequence[StageKind]) -> bool:
    """Whether the stages that carry an image come first."""
    carried = [kind.carries_image for kind in kinds]
    return carried == sorted(carried, reverse=True)


def _wrong_times(config: UNetConfig) -> Iterator[str]:
    if config.time_embedding_type == "learned" and config.num_train_timesteps is None:
        yield "time_embedding_type 'learned' needs num_train_timesteps"
    if config.time_embedding_type == "positional" and config.freq_shift == config.block_out_channels[0] // 2:
        yield (
            f"freq_shift is {config.freq_shift}, all the frequencies that block_out_channels[0] = "
            f"{config.block_out_channels[0]} has room for; none would be finite"
        )


def _wrong_classes(config: UNetConfig) -> Iterator[str]:
    if config.null_class is None:
        return
    if not config.has_class_table:
        yield "_null_class needs a class table: set num_class_embeds and leave class_embed_type null"
    elif config.num_class_embeds is not None and config.null_class >= config.num_class_embeds:
        yield f"_null_class is {config.null_class}; expected less than num_class_embeds {config.num_class_embeds}"


def _not_among(key: str, words: Sequence[str | None], choices: Iterable[str]) -> Iterator[str]:
    known = list(choices)
    for word in dict.fromkeys(words):
        if word is not None and word not in known:
            yield f"{key} has {word!r}, which is not built; supported are {', '.join(known)}{_nearest(word, known)}"


def _nearest(word: str, known: Sequence[str]) -> str:
    suggestion = did_you_mean(word, known)
    return f"; {suggestion}" if suggestion.startswith("did you") else ""
