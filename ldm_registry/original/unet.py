"""The UNet of latent-diffusion (`openaimodel.UNetModel`) as diffusers' `UNet2DConditionModel`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm_registry.errors import CheckpointError
from ldm_registry.original.pieces import Piece, Section, Shape, convolution, count, layer, shape_of

GROUPS = 32
TIME_EXPANSION = 4


@dataclass(frozen=True, slots=True)
class UNetPlan:
    """What the shapes of a UNet say.

    Attributes:
        in_channels: Of the latent.
        out_channels: Of the prediction.
        widths: Channels of each level, finest first.
        layers: Residual blocks of each level on the way down; one more on the way up.
        depths: Transformer blocks in each attention of a level; 0 for a level without.
        middle_depth: The same of the middle block.
        context: Channels of the text embedding.
        linear_projection: Whether attention is entered by a linear layer instead of a 1x1 convolution.
        added: Channels of the pooled text and the sizes (SDXL); None without.
        model_channels: Channels of the time embedding, and of the first convolution.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    linear_projection: bool
    added: int | None
    model_channels: int


@dataclass(slots=True)
class _Level:
    widths: list[int]
    depths: list[int]


def plan_unet(names: Section) -> UNetPlan:
    """Read the sizes of a UNet off its tensors.

    Args:
        names: Its tensors, without their prefix.

    Raises:
        CheckpointError: It has no attention to text, blocks of one level differ, or a tensor is missing.
    """
    model_channels, in_channels = shape_of(names, "input_blocks.0.0.weight", 4)[:2]
    levels = _levels(names)
    middle = count(names, "middle_block.1.transformer_blocks.{}.")
    _refuse_other_networks(names, levels, middle)
    attention = "middle_block.1"
    return UNetPlan(
        in_channels=in_channels,
        out_channels=shape_of(names, "out.2.weight", 4)[0],
        widths=tuple(level.widths[0] for level in levels),
        layers=tuple(len(level.widths) for level in levels),
        depths=tuple(level.depths[0] for level in levels),
        middle_depth=middle,
        context=shape_of(names, f"{attention}.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        linear_projection=len(names[f"{attention}.proj_in.weight"].shape) == 2
        if f"{attention}.proj_in.weight" in names
        else False,
        added=shape_of(names, "label_emb.0.0.weight", 2)[1] if "label_emb.0.0.weight" in names else None,
        model_channels=model_channels,
    )


def _levels(names: Section) -> list[_Level]:
    levels = [_Level([], [])]
    for index in range(1, count(names, "input_blocks.{}.")):
        block = f"input_blocks.{index}"
        if f"{block}.0.op.weight" in names:
            levels.append(_Level([], []))
        else:
            levels[-1].widths.append(shape_of(names, f"{block}.0.out_layers.3.weight", 4)[0])
            levels[-1].depths.append(count(names, f"{block}.1.transformer_blocks.{{}}."))
    return levels


def _refuse_other_networks(names: Section, levels: list[_Level], middle: int) -> None:
    problems = [
        f"{what}: level {index} has {values}; diffusers' configs have one number a level"
        for index, level in enumerate(levels)
        for what, values in (("widths", level.widths), ("transformer blocks", level.depths))
        if len(set(values)) != 1
    ]
    if any(".qkv.weight" in name for name in names):
        problems.append(
            "attention without text (qkv): an unconditional network; name its YAML to have it read"
        )
    elif middle == 0:
        problems.append("the middle block has no attention; a distilled network of another shape")
    elif levels[-1].depths[:1] not in ([0], [middle]):
        problems.append(
            f"transformer blocks: {middle} in the middle and {levels[-1].depths} in the last level; "
            "diffusers' configs have one number for both"
        )
    if "label_emb.weight" in names:
        problems.append("label_emb.weight: the upscaler's noise level is not read here")
    if problems:
        raise CheckpointError(
            "the UNet is none that can be converted", problems, hint="fetch it as a diffusers folder"
        )


def unet_config(plan: UNetPlan, heads: tuple[int, ...] | int) -> dict[str, Any]:
    """`config.json` of the UNet.

    Args:
        plan: Its sizes.
        heads: Attention heads, in one number or for each level; diffusers calls them `attention_head_dim`.
    """
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in plan.depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(plan.depths)]
    added: Mapping[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": plan.added,
    }
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        **(added if plan.added is not None else {}),
        "attention_head_dim": heads if isinstance(heads, int) else list(heads),
        "block_out_channels": list(plan.widths),
        "center_input_sample": False,
        "cross_attention_dim": plan.context,
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": plan.in_channels,
        "layers_per_block": plan.layers[0] if len(set(plan.layers)) == 1 else list(plan.layers),
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": GROUPS,
        "only_cross_attention": False,
        "out_channels": plan.out_channels,
        "transformer_layers_per_block": _depths(plan),
        "up_block_types": up,
        "use_linear_projection": plan.linear_projection,
    }


def _depths(plan: UNetPlan) -> int | list[int]:
    """Levels without attention need a number, too; the last one is also that of the middle."""
    depths = [*(depth or 1 for depth in plan.depths[:-1]), plan.middle_depth]
    return depths[0] if len(set(depths)) == 1 else depths


def unet_pieces(plan: UNetPlan) -> list[Piece]:
    """The table of the UNet, in the order in which the network runs."""
    time = TIME_EXPANSION * plan.model_channels
    pieces = [
        *layer("time_embedding.linear_1", "time_embed.0", (time, plan.model_channels)),
        *layer("time_embedding.linear_2", "time_embed.2", (time, time)),
        *convolution("conv_in", "input_blocks.0.0", plan.model_channels, plan.in_channels),
    ]
    if plan.added is not None:
        pieces += layer("add_embedding.linear_1", "label_emb.0.0", (time, plan.added))
        pieces += layer("add_embedding.linear_2", "label_emb.0.2", (time, time))
    skips, down = _down(plan, time)
    last = plan.widths[-1]
    pieces += [
        *down,
        *_residual("mid_block.resnets.0", "middle_block.0", last, last, time),
        *_attention("mid_block.attentions.0", "middle_block.1", last, plan.middle_depth, plan),
        *_residual("mid_block.resnets.1", "middle_block.2", last, last, time),
        *_up(plan, time, skips),
        *layer("conv_norm_out", "out.0", (plan.model_channels,)),
        *convolution("conv_out", "out.2", plan.out_channels, plan.model_channels),
    ]
    return pieces


def _down(plan: UNetPlan, time: int) -> tuple[list[int], list[Piece]]:
    """The widths that the way up finds on its stack, and the table of the way down."""
    width, skips, index = plan.model_channels, [plan.model_channels], 1
    pieces: list[Piece] = []
    for level, (outputs, blocks, depth) in enumerate(zip(plan.widths, plan.layers, plan.depths, strict=True)):
        target = f"down_blocks.{level}"
        for block in range(blocks):
            source = f"input_blocks.{index}"
            pieces += _residual(f"{target}.resnets.{block}", f"{source}.0", width, outputs, time)
            pieces += _attention(f"{target}.attentions.{block}", f"{source}.1", outputs, depth, plan)
            width, index = outputs, index + 1
            skips.append(width)
        if level < len(plan.widths) - 1:
            pieces += convolution(f"{target}.downsamplers.0.conv", f"input_blocks.{index}.0.op", width, width)
            skips.append(width)
            index += 1
    return skips, pieces


def _up(plan: UNetPlan, time: int, skips: list[int]) -> list[Piece]:
    width, index, stack = plan.widths[-1], 0, list(skips)
    pieces: list[Piece] = []
    for position, level in enumerate(reversed(range(len(plan.widths)))):
        outputs, depth, blocks = plan.widths[level], plan.depths[level], plan.layers[level] + 1
        target = f"up_blocks.{position}"
        for block in range(blocks):
            source = f"output_blocks.{index + block}"
            pieces += _residual(
                f"{target}.resnets.{block}", f"{source}.0", width + stack.pop(), outputs, time
            )
            pieces += _attention(f"{target}.attentions.{block}", f"{source}.1", outputs, depth, plan)
            width = outputs
        index += blocks
        if level:
            # It shares the number of the level's last block, behind the attention where there is one.
            source = f"output_blocks.{index - 1}.{2 if depth else 1}.conv"
            pieces += convolution(f"{target}.upsamplers.0.conv", source, width, width)
    return pieces


def _residual(target: str, source: str, inputs: int, outputs: int, time: int) -> list[Piece]:
    pieces = [
        *layer(f"{target}.norm1", f"{source}.in_layers.0", (inputs,)),
        *convolution(f"{target}.conv1", f"{source}.in_layers.2", outputs, inputs),
        *layer(f"{target}.time_emb_proj", f"{source}.emb_layers.1", (outputs, time)),
        *layer(f"{target}.norm2", f"{source}.out_layers.0", (outputs,)),
        *convolution(f"{target}.conv2", f"{source}.out_layers.3", outputs, outputs),
    ]
    if inputs != outputs:
        pieces += convolution(f"{target}.conv_shortcut", f"{source}.skip_connection", outputs, inputs, 1)
    return pieces


def _attention(target: str, source: str, width: int, depth: int, plan: UNetPlan) -> list[Piece]:
    if depth == 0:
        return []
    projection: Shape = (width, width) if plan.linear_projection else (width, width, 1, 1)
    pieces = [
        *layer(f"{target}.norm", f"{source}.norm", (width,)),
        *layer(f"{target}.proj_in", f"{source}.proj_in", projection),
        *layer(f"{target}.proj_out", f"{source}.proj_out", projection),
    ]
    # Inside of a transformer block both libraries use the same names.
    for index in range(depth):
        inside = f"transformer_blocks.{index}"
        for name, shape, bias in _transformer_block(width, plan.context):
            pieces += layer(f"{target}.{inside}.{name}", f"{source}.{inside}.{name}", shape, bias=bias)
    return pieces


def _transformer_block(width: int, context: int) -> list[tuple[str, Shape, bool]]:
    square = (width, width)
    return [
        *((f"norm{index}", (width,), True) for index in (1, 2, 3)),
        *((f"attn1.{name}", square, False) for name in ("to_q", "to_k", "to_v")),
        ("attn2.to_q", square, False),
        *((f"attn2.{name}", (width, context), False) for name in ("to_k", "to_v")),
        *((f"{name}.to_out.0", square, True) for name in ("attn1", "attn2")),
        ("ff.net.0.proj", (8 * width, width), True),
        ("ff.net.2", (width, 4 * width), True),
    ]
