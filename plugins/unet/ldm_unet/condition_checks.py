"""Everything that can be wrong with the config of a conditional UNet, found at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ldm_registry.errors import did_you_mean
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_kind import (
    ACTIVATIONS,
    ADDED_EMBEDDINGS,
    ATTENTIONS,
    CLASS_EMBEDDINGS,
    CROSS_NORM_GROUPS,
    CROSS_NORMS,
    DOWN_BLOCKS,
    MID_BLOCKS,
    TEXT_PROJECTIONS,
    TIME_EMBEDDINGS,
    TIME_SHIFTS,
    UP_BLOCKS,
    modern,
)
from ldm_unet.condition_plan import StagePlan, all_plans

PER_RESOLUTION = (
    "down_block_types",
    "up_block_types",
    "only_cross_attention",
    "layers_per_block",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "attention_head_dim",
)


def problems(config: UNetConditionConfig) -> Iterator[str]:
    """One line for each thing that is wrong: what the key holds, and what it may hold."""
    first = [
        *_wrong_words(config),
        *_not_built(config),
        *_wrong_lengths(config),
        *_wrong_numbers(config),
    ]
    yield from first
    yield from _wrong_embeddings(config)
    if not first:
        yield from _wrong_depths(config)
        yield from _wrong_widths(config)


def _wrong_words(config: UNetConditionConfig) -> Iterator[str]:
    yield from _not_among("down_block_types", [modern(word) for word in config.down_block_types], DOWN_BLOCKS)
    yield from _not_among("up_block_types", [modern(word) for word in config.up_block_types], UP_BLOCKS)
    yield from _not_among("mid_block_type", [config.mid_block_type], MID_BLOCKS, "null")
    yield from _not_among("act_fn", [config.act_fn], ACTIVATIONS)
    yield from _not_among("time_embedding_act_fn", [config.time_embedding_act_fn], ACTIVATIONS, "null")
    yield from _not_among("timestep_post_act", [config.timestep_post_act], ACTIVATIONS, "null")
    yield from _not_among("time_embedding_type", [config.time_embedding_type], TIME_EMBEDDINGS)
    yield from _not_among("resnet_time_scale_shift", [config.resnet_time_scale_shift], TIME_SHIFTS)
    yield from _not_among("class_embed_type", [config.class_embed_type], CLASS_EMBEDDINGS, "null")
    yield from _not_among("addition_embed_type", [config.addition_embed_type], ADDED_EMBEDDINGS, "null")
    yield from _not_among("encoder_hid_dim_type", [config.encoder_hid_dim_type], TEXT_PROJECTIONS, "null")
    yield from _not_among("attention_type", [config.attention_type], ATTENTIONS)
    yield from _not_among("cross_attention_norm", [config.cross_attention_norm], CROSS_NORMS, "null")


def _not_built(config: UNetConditionConfig) -> Iterator[str]:
    if config.num_attention_heads is not None:
        yield (
            f"num_attention_heads is {config.num_attention_heads}; expected null, as in diffusers: attention_head_dim "
            "holds the number of heads"
        )
    if config.dual_cross_attention:
        yield "dual_cross_attention is true, which is not built; supported is false"
    if config.norm_num_groups is None:
        yield "norm_num_groups is null, which no block type that is built can be; supported are numbers from 1"


def _wrong_lengths(config: UNetConditionConfig) -> Iterator[str]:
    count = len(config.block_out_channels)
    for key in PER_RESOLUTION:
        value = getattr(config, key)
        if isinstance(value, tuple) and len(value) != count:
            yield (
                f"{key} has {len(value)} entries; expected {count}, one for each resolution in block_out_channels"
            )


def _wrong_numbers(config: UNetConditionConfig) -> Iterator[str]:
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        yield (
            f"out_channels is {config.out_channels} and in_channels {config.in_channels}; expected out_channels "
            f"{config.in_channels}, or {2 * config.in_channels} with a learned variance. Networks that take an "
            "image or a mask beside the latent (inpainting, upscaling, depth) are not built"
        )
    for key in ("conv_in_kernel", "conv_out_kernel"):
        if getattr(config, key) % 2 == 0:
            yield f"{key} is {getattr(config, key)}; expected an odd number, so that the latent keeps its size"
    for key in ("block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim"):
        value = getattr(config, key)
        if min(value if isinstance(value, tuple) else (value,), default=1) < 1:
            yield f"{key} is {value}; expected numbers from 1"
    half = config.block_out_channels[0] // 2
    if config.time_embedding_type == "positional" and half <= config.freq_shift:
        yield f"freq_shift is {config.freq_shift}; expected less than half of block_out_channels[0], {half}"
    if config.time_embedding_type == "fourier" and config.time_dim % 2:
        yield f"time_embedding_dim is {config.time_dim}; expected an even number with time_embedding_type 'fourier'"


def _wrong_embeddings(config: UNetConditionConfig) -> Iterator[str]:
    if config.encoder_hid_dim_type is not None and config.encoder_hid_dim is None:
        yield f"encoder_hid_dim_type {config.encoder_hid_dim_type!r} needs encoder_hid_dim"
    one_width = isinstance(config.cross_attention_dim, int)
    if config.encoder_hid_dim is not None and not one_width:
        yield "encoder_hid_dim needs a single cross_attention_dim to project to"
    given = config.projection_class_embeddings_input_dim
    if config.class_embed_type in ("projection", "simple_projection") and given is None:
        yield f"class_embed_type {config.class_embed_type!r} needs projection_class_embeddings_input_dim"
    if config.class_embeddings_concat and not config.has_class:
        yield "class_embeddings_concat needs a class embedding: set class_embed_type or num_class_embeds"
    if config.class_embeddings_concat and config.addition_embed_type is not None:
        yield "class_embeddings_concat and addition_embed_type exclude one another: their embeddings differ in width"
    match config.addition_embed_type:
        case "text_time":
            yield from _wrong_sizes(config)
        case "text":
            width = config.encoder_hid_dim or config.cross_attention_dim
            if isinstance(width, tuple):
                yield "addition_embed_type 'text' needs a single cross_attention_dim"
            elif width % config.addition_embed_type_num_heads:
                yield (
                    f"addition_embed_type_num_heads is {config.addition_embed_type_num_heads}; expected a divisor of "
                    f"the text's {width} channels"
                )
    if config.null_class is not None:
        if not config.has_class_table:
            yield "_null_class needs a class table: set num_class_embeds and leave class_embed_type null"
        elif config.num_class_embeds is not None and config.null_class >= config.num_class_embeds:
            yield f"_null_class is {config.null_class}; expected less than num_class_embeds {config.num_class_embeds}"


def _wrong_sizes(config: UNetConditionConfig) -> Iterator[str]:
    each, together = config.addition_time_embed_dim, config.projection_class_embeddings_input_dim
    if each is None or together is None:
        yield (
            "addition_embed_type 'text_time' needs addition_time_embed_dim and projection_class_embeddings_input_dim"
        )
    elif together <= config.size_numbers * each:
        yield (
            f"projection_class_embeddings_input_dim is {together}; expected more than {config.size_numbers * each}, "
            f"which {config.size_numbers} numbers of addition_time_embed_dim {each} take: the rest is the pooled text"
        )
    if each is not None and each // 2 <= config.freq_shift:
        yield f"freq_shift is {config.freq_shift}; expected less than half of addition_time_embed_dim, {each // 2}"


def _wrong_depths(config: UNetConditionConfig) -> Iterator[str]:
    depths = config.transformer_layers_per_block
    nested = isinstance(depths, tuple) and any(isinstance(depth, tuple) for depth in depths)
    if nested and config.reverse_transformer_layers_per_block is None:
        yield "transformer_layers_per_block is nested, which needs reverse_transformer_layers_per_block"
        return
    read = [plan for plan in all_plans(config) if plan.kind.attention == "cross"]
    if any(min(plan.depths, default=0) < 0 for plan in read):
        yield f"transformer_layers_per_block is {depths}; expected numbers from 0"
    for plan in read:
        if len(plan.depths) < plan.layers:
            yield (
                f"transformer layers of a stage {plan.width} wide are {list(plan.depths)}; expected {plan.layers} "
                "numbers, one for each residual block (on the way up one more than on the way down)"
            )


def _wrong_widths(config: UNetConditionConfig) -> Iterator[str]:
    for width in dict.fromkeys(config.block_out_channels):
        if width % config.groups:
            yield f"block_out_channels has {width}, not a multiple of norm_num_groups {config.groups}"
    plans = all_plans(config)
    read = list(dict.fromkeys(plan.text_width for plan in plans if plan.kind.reads_text))
    if len(read) > 1:
        yield f"cross_attention_dim differs between stages that read one text: {', '.join(map(str, read))}"
    yield from dict.fromkeys(problem for plan in plans for problem in _wrong_heads(config, plan))


def _wrong_heads(config: UNetConditionConfig, plan: StagePlan) -> Iterator[str]:
    match plan.kind.attention:
        case "cross" if plan.heads > plan.width:
            yield f"attention_head_dim asks for {plan.heads} heads of a stage {plan.width} wide"
        case "self" if plan.heads > plan.width:
            yield f"attention_head_dim asks for heads {plan.heads} wide in a stage {plan.width} wide"
        case "joint" if plan.width % plan.heads:
            yield f"attention_head_dim is {plan.heads}; expected a divisor of {plan.width} in SimpleCrossAttn blocks"
    if plan.kind.attention != "joint":
        return
    if config.cross_attention_norm == "group_norm" and plan.text_width % CROSS_NORM_GROUPS:
        yield (
            f"cross_attention_norm 'group_norm' needs a cross_attention_dim in multiples of {CROSS_NORM_GROUPS}; "
            f"got {plan.text_width}"
        )
    if config.cross_attention_norm == "layer_norm" and plan.text_width != plan.width:
        yield (
            f"cross_attention_norm 'layer_norm' needs a cross_attention_dim of the stage's width {plan.width}; "
            f"got {plan.text_width}"
        )


def _not_among(key: str, words: Sequence[str | None], choices: Iterable[str], *others: str) -> Iterator[str]:
    known = list(choices)
    for word in dict.fromkeys(words):
        if word is not None and word not in known:
            suggestion = did_you_mean(word, known)
            near = f"; {suggestion}" if suggestion.startswith("did you") else ""
            yield f"{key} has {word!r}, which is not built; supported are {', '.join((*known, *others))}{near}"
