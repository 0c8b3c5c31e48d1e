"""The autoencoders of latent-diffusion as diffusers' `AutoencoderKL` and `VQModel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ldm_registry.errors import CheckpointError
from ldm_registry.original.pieces import (
    Piece,
    Section,
    convolution,
    count,
    layer,
    pointwise,
    shape_of,
    whole,
)

GROUPS = 32


@dataclass(frozen=True, slots=True)
class AutoencoderPlan:
    """What the shapes of an autoencoder say.

    Attributes:
        in_channels: Of the image that goes in.
        out_channels: Of the image that comes out.
        widths: Channels of each level, finest first.
        layers: Residual blocks of a level in the encoder; the decoder has one more.
        attention: Which levels attend after each block.
        middle_attention: Whether the middle does.
        latent_channels: Of the latent.
        quant_conv: Whether a 1x1 convolution follows the encoder.
        post_quant_conv: Whether one precedes the decoder.
        codes: (number, channels) of the codebook of a VQ model; None for a KL model.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    middle_attention: bool
    latent_channels: int
    quant_conv: bool
    post_quant_conv: bool
    codes: tuple[int, int] | None


def plan_autoencoder(names: Section) -> AutoencoderPlan:
    """Read the sizes of an autoencoder off its tensors.

    Args:
        names: Its tensors, without their prefix.

    Raises:
        CheckpointError: A tensor is missing, or the levels differ in their number of blocks.
    """
    levels = count(names, "encoder.down.{}.")
    blocks = [count(names, f"encoder.down.{level}.block.{{}}.") for level in range(levels)]
    if len(set(blocks)) != 1:
        raise CheckpointError(
            "the autoencoder is none that can be converted",
            [f"residual blocks: the levels have {blocks}; diffusers' config has one number for all"],
        )
    codebook = "quantize.embedding.weight"
    codes = shape_of(names, codebook, 2) if codebook in names else None
    return AutoencoderPlan(
        in_channels=shape_of(names, "encoder.conv_in.weight", 4)[1],
        out_channels=shape_of(names, "decoder.conv_out.weight", 4)[0],
        widths=tuple(
            shape_of(names, f"encoder.down.{level}.block.0.conv2.weight", 4)[0] for level in range(levels)
        ),
        layers=blocks[0],
        attention=tuple(_has(names, f"encoder.down.{level}.attn.") for level in range(levels)),
        middle_attention=_has(names, "encoder.mid.attn_1."),
        latent_channels=shape_of(names, "decoder.conv_in.weight", 4)[1],
        quant_conv=_has(names, "quant_conv."),
        post_quant_conv=_has(names, "post_quant_conv."),
        codes=(codes[0], codes[1]) if codes else None,
    )


def _has(names: Section, start: str) -> bool:
    """Whether a module is there, be it in parts: what lacks is told then, instead of the rest being unknown."""
    return any(name.startswith(start) for name in names)


def autoencoder_config(plan: AutoencoderPlan) -> dict[str, Any]:
    """`config.json` of the autoencoder, without what shapes do not say: the size of the images and the scaling."""
    own: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "force_upcast": True,
        "use_post_quant_conv": plan.post_quant_conv,
        "use_quant_conv": plan.quant_conv,
    }
    if plan.codes is not None:
        own = {"_class_name": "VQModel", "num_vq_embeddings": plan.codes[0], "vq_embed_dim": plan.codes[1]}
    return {
        **own,
        "act_fn": "silu",
        "block_out_channels": list(plan.widths),
        "down_block_types": [
            "AttnDownEncoderBlock2D" if attends else "DownEncoderBlock2D" for attends in plan.attention
        ],
        "in_channels": plan.in_channels,
        "latent_channels": plan.latent_channels,
        "layers_per_block": plan.layers,
        "mid_block_add_attention": plan.middle_attention,
        "norm_num_groups": GROUPS,
        "out_channels": plan.out_channels,
        "up_block_types": [
            "AttnUpDecoderBlock2D" if attends else "UpDecoderBlock2D" for attends in reversed(plan.attention)
        ],
    }


def autoencoder_pieces(plan: AutoencoderPlan) -> list[Piece]:
    """The table of the autoencoder."""
    latent = plan.latent_channels
    moments = latent if plan.codes else 2 * latent
    coded = plan.codes[1] if plan.codes else latent
    pieces = [*_encoder(plan, moments), *_decoder(plan)]
    if plan.codes is not None:
        pieces.append(whole("quantize.embedding.weight", "quantize.embedding.weight", plan.codes))
    if plan.quant_conv or plan.codes:
        outputs = coded if plan.codes else moments
        pieces += convolution("quant_conv", "quant_conv", outputs, moments, 1)
    if plan.post_quant_conv or plan.codes:
        pieces += convolution("post_quant_conv", "post_quant_conv", latent, coded, 1)
    return pieces


def _encoder(plan: AutoencoderPlan, moments: int) -> list[Piece]:
    width, last = plan.widths[0], len(plan.widths) - 1
    pieces = convolution("encoder.conv_in", "encoder.conv_in", width, plan.in_channels)
    for level, outputs in enumerate(plan.widths):
        target, source = f"encoder.down_blocks.{level}", f"encoder.down.{level}"
        pieces += _blocks(target, source, width, outputs, plan.layers, plan.attention[level])
        width = outputs
        if level < last:
            pieces += convolution(f"{target}.downsamplers.0.conv", f"{source}.downsample.conv", width, width)
    return [
        *pieces,
        *_middle("encoder", width, plan.middle_attention),
        *layer("encoder.conv_norm_out", "encoder.norm_out", (width,)),
        *convolution("encoder.conv_out", "encoder.conv_out", moments, width),
    ]


def _decoder(plan: AutoencoderPlan) -> list[Piece]:
    width = plan.widths[-1]
    pieces = [
        *convolution("decoder.conv_in", "decoder.conv_in", width, plan.latent_channels),
        *_middle("decoder", width, plan.middle_attention),
    ]
    # The original numbers the levels of both halves from the finest, diffusers in the order of the data.
    for position, level in enumerate(reversed(range(len(plan.widths)))):
        target, source = f"decoder.up_blocks.{position}", f"decoder.up.{level}"
        outputs = plan.widths[level]
        pieces += _blocks(target, source, width, outputs, plan.layers + 1, plan.attention[level])
        width = outputs
        if level:
            pieces += convolution(f"{target}.upsamplers.0.conv", f"{source}.upsample.conv", width, width)
    return [
        *pieces,
        *layer("decoder.conv_norm_out", "decoder.norm_out", (width,)),
        *convolution("decoder.conv_out", "decoder.conv_out", plan.out_channels, width),
    ]


def _blocks(target: str, source: str, inputs: int, outputs: int, blocks: int, attends: bool) -> list[Piece]:
    pieces: list[Piece] = []
    for block in range(blocks):
        pieces += _residual(f"{target}.resnets.{block}", f"{source}.block.{block}", inputs, outputs)
        if attends:
            pieces += _attention(f"{target}.attentions.{block}", f"{source}.attn.{block}", outputs)
        inputs = outputs
    return pieces


def _middle(half: str, width: int, attends: bool) -> list[Piece]:
    target, source = f"{half}.mid_block", f"{half}.mid"
    return [
        *_residual(f"{target}.resnets.0", f"{source}.block_1", width, width),
        *(_attention(f"{target}.attentions.0", f"{source}.attn_1", width) if attends else []),
        *_residual(f"{target}.resnets.1", f"{source}.block_2", width, width),
    ]


def _residual(target: str, source: str, inputs: int, outputs: int) -> list[Piece]:
    pieces = [
        *layer(f"{target}.norm1", f"{source}.norm1", (inputs,)),
        *convolution(f"{target}.conv1", f"{source}.conv1", outputs, inputs),
        *layer(f"{target}.norm2", f"{source}.norm2", (outputs,)),
        *convolution(f"{target}.conv2", f"{source}.conv2", outputs, outputs),
    ]
    if inputs != outputs:
        pieces += convolution(f"{target}.conv_shortcut", f"{source}.nin_shortcut", outputs, inputs, 1)
    return pieces


def _attention(target: str, source: str, width: int) -> list[Piece]:
    names = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
    pieces = layer(f"{target}.group_norm", f"{source}.norm", (width,))
    for ours, theirs in names:
        pieces += pointwise(f"{target}.{ours}", f"{source}.{theirs}", width)
    return pieces
