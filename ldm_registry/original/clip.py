"""The text encoders of single files: CLIP as transformers stores it, and as open_clip does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ldm_registry.errors import CheckpointError
from ldm_registry.original.pieces import Piece, Section, Shape, count, fused, layer, shape_of, whole

HEAD_CHANNELS = 64
VIT_H_LAYERS = 24
"""Of the text half of open_clip's ViT-H, the encoder of Stable Diffusion 2."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What the shapes of a text encoder say.

    Attributes:
        width: Channels.
        inner: Channels inside of the feed-forward layers.
        layers: Transformer blocks that are used.
        vocabulary: Tokens.
        length: Tokens of a text.
        projection: Channels of the projected text, where the encoder projects.
        root: What stands before the names of the transformer, in files that transformers' names.
    """

    width: int
    inner: int
    layers: int
    vocabulary: int
    length: int
    projection: int | None = None
    root: str = ""


def plan_clip(names: Section) -> ClipPlan:
    """Read the sizes of a text encoder with the names of transformers.

    Args:
        names: Its tensors, without their prefix.

    Raises:
        CheckpointError: A tensor is missing.
    """
    # Some tools saved the encoder without its outermost module.
    root = "" if "embeddings.token_embedding.weight" in names else "text_model."
    vocabulary, width = shape_of(names, f"{root}embeddings.token_embedding.weight", 2)
    return ClipPlan(
        width=width,
        inner=shape_of(names, f"{root}encoder.layers.0.mlp.fc1.weight", 2)[0],
        layers=count(names, f"{root}encoder.layers.{{}}."),
        vocabulary=vocabulary,
        length=shape_of(names, f"{root}embeddings.position_embedding.weight", 2)[0],
        root=root,
    )


def plan_open_clip(names: Section, *, projects: bool) -> tuple[ClipPlan, tuple[str, ...]]:
    """Read the sizes of a text encoder with the names of open_clip.

    Args:
        names: Its tensors, without their prefix.
        projects: Whether the whole encoder and its projection are used (SDXL); else its last block is left out,
            because the output of the one before it is the text embedding (Stable Diffusion 2).

    Returns:
        The plan, and the beginnings of the names that belong to what is not used.

    Raises:
        CheckpointError: A tensor is missing.
    """
    vocabulary, width = shape_of(names, "token_embedding.weight", 2)
    layers = count(names, "transformer.resblocks.{}.")
    unused: tuple[str, ...] = ()
    if not projects:
        unused = ("text_projection",)
        # A file with one block less than the encoder has was stripped of the unused one already.
        if layers > 1 and layers != VIT_H_LAYERS - 1:
            layers -= 1
            unused = (*unused, f"transformer.resblocks.{layers}.")
    plan = ClipPlan(
        width=width,
        inner=shape_of(names, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        layers=layers,
        vocabulary=vocabulary,
        length=shape_of(names, "positional_embedding", 2)[0],
        projection=shape_of(names, "text_projection", 2)[1] if projects else None,
    )
    return plan, unused


def clip_config(plan: ClipPlan, activation: str, projection: int) -> dict[str, Any]:
    """`config.json` of the encoder.

    Args:
        plan: Its sizes.
        activation: `quick_gelu` of OpenAI's encoders, `gelu` of open_clip's.
        projection: `projection_dim` where the encoder does not project.

    Raises:
        CheckpointError: The width is no whole number of heads.
    """
    if plan.width % HEAD_CHANNELS:
        raise CheckpointError(
            "the text encoder is none that can be converted",
            [f"width: got {plan.width}, expected a multiple of {HEAD_CHANNELS}, the channels of a head"],
        )
    projects = plan.projection is not None
    return {
        "architectures": ["CLIPTextModelWithProjection" if projects else "CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        # Not the id of the token: 2 tells transformers to pool where the largest id stands, as was done in training.
        "eos_token_id": 2,
        "hidden_act": activation,
        "hidden_size": plan.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": plan.inner,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": plan.length,
        "model_type": "clip_text_model",
        "num_attention_heads": plan.width // HEAD_CHANNELS,
        "num_hidden_layers": plan.layers,
        "pad_token_id": 1,
        "projection_dim": plan.projection if plan.projection is not None else projection,
        "vocab_size": plan.vocabulary,
    }


def clip_pieces(plan: ClipPlan) -> list[Piece]:
    """The table of an encoder with the names of transformers."""
    width, inner = plan.width, plan.inner
    square = (width, width)
    shapes: list[tuple[str, Shape]] = [
        *((f"self_attn.{name}", square) for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
        ("layer_norm1", (width,)),
        ("layer_norm2", (width,)),
        ("mlp.fc1", (inner, width)),
        ("mlp.fc2", (width, inner)),
    ]
    pieces = []
    for name, rows in (("token", plan.vocabulary), ("position", plan.length)):
        stored = f"embeddings.{name}_embedding.weight"
        pieces.append(whole(f"text_model.{stored}", f"{plan.root}{stored}", (rows, width)))
    for index in range(plan.layers):
        for name, shape in shapes:
            inside = f"encoder.layers.{index}.{name}"
            pieces += layer(f"text_model.{inside}", f"{plan.root}{inside}", shape)
    return [*pieces, *layer("text_model.final_layer_norm", f"{plan.root}final_layer_norm", (width,))]


def open_clip_pieces(plan: ClipPlan) -> list[Piece]:
    """The table of an encoder with the names of open_clip."""
    width = plan.width
    pieces = [
        whole(
            "text_model.embeddings.token_embedding.weight",
            "token_embedding.weight",
            (plan.vocabulary, width),
        ),
        whole(
            "text_model.embeddings.position_embedding.weight", "positional_embedding", (plan.length, width)
        ),
    ]
    for index in range(plan.layers):
        pieces += _open_clip_block(
            f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}", plan
        )
    pieces += layer("text_model.final_layer_norm", "ln_final", (width,))
    if plan.projection is not None:
        stored = ((width, plan.projection),)
        pieces.append(
            Piece(
                "text_projection.weight",
                (plan.projection, width),
                "text_projection",
                stored,
                transposed=True,
            )
        )
    return pieces


def _open_clip_block(target: str, source: str, plan: ClipPlan) -> list[Piece]:
    attention = [f"{target}.self_attn.{name}_proj" for name in "qkv"]
    fused_names = (f"{source}.attn.in_proj_weight", f"{source}.attn.in_proj_bias")
    return [
        *fused(attention, *fused_names, plan.width),
        *layer(f"{target}.self_attn.out_proj", f"{source}.attn.out_proj", (plan.width, plan.width)),
        *layer(f"{target}.layer_norm1", f"{source}.ln_1", (plan.width,)),
        *layer(f"{target}.layer_norm2", f"{source}.ln_2", (plan.width,)),
        *layer(f"{target}.mlp.fc1", f"{source}.mlp.c_fc", (plan.inner, plan.width)),
        *layer(f"{target}.mlp.fc2", f"{source}.mlp.c_proj", (plan.width, plan.inner)),
    ]
