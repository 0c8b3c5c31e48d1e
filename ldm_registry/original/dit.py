"""The original DiT (Peebles and Xie 2023) as diffusers' `DiTTransformer2DModel`."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ldm_registry.errors import CheckpointError
from ldm_registry.original.pieces import Piece, Section, count, fused, layer, shape_of, whole

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""By width: DiT-S, B, L and XL (table 1 of the paper)."""
FREQUENCIES = 256
EXPANSION = 4
POSITIONS = "pos_embed"
TOLERANCE = 1e-2
"""Between a stored table of positions and the computed one: more than bfloat16 rounds, less than one other entry."""


@dataclass(frozen=True, slots=True)
class DiTPlan:
    """What the shapes of a DiT say.

    Attributes:
        width: Channels.
        layers: Transformer blocks.
        in_channels: Of the latent.
        out_channels: Of the output; twice as many where the variance is learned.
        patch: Side of a patch, latent cells.
        classes: Number of classes; the label of this number is null.
        side: Side of the latent, cells; None where the file holds no positions.
    """

    width: int
    layers: int
    in_channels: int
    out_channels: int
    patch: int
    classes: int
    side: int | None


def plan_dit(names: Section) -> DiTPlan:
    """Read the sizes of a DiT off its tensors.

    Args:
        names: Its tensors.

    Raises:
        CheckpointError: A tensor is missing, or sizes do not fit together.
    """
    width, in_channels, patch, _ = shape_of(names, "x_embedder.proj.weight", 4)
    outputs = shape_of(names, "final_layer.linear.weight", 2)[0]
    rows = shape_of(names, "y_embedder.embedding_table.weight", 2)[0]
    side = None
    if POSITIONS in names:
        _, cells, channels = shape_of(names, POSITIONS, 3)
        side = isqrt(cells) * patch
        if isqrt(cells) ** 2 != cells or channels != width or width % 4:
            raise CheckpointError(
                "the DiT is none that can be converted",
                [
                    f"{POSITIONS} is {[1, cells, channels]}, expected a square of cells, each of {width} channels"
                ],
            )
    if outputs % patch**2 or rows < 2:
        raise CheckpointError(
            "the DiT is none that can be converted",
            [
                f"final_layer.linear.weight has {outputs} rows, expected a multiple of {patch}x{patch}",
                f"y_embedder.embedding_table.weight has {rows} rows, expected at least a class and null",
            ],
        )
    return DiTPlan(width, count(names, "blocks.{}."), in_channels, outputs // patch**2, patch, rows - 1, side)


def dit_config(plan: DiTPlan, heads: int, sample_size: int) -> dict[str, Any]:
    """`config.json` of the DiT.

    Args:
        plan: Its sizes.
        heads: Attention heads.
        sample_size: Side of the latents that it was trained on, cells.
    """
    return {
        "_class_name": "DiTTransformer2DModel",
        # The original divides by the number of frequencies, diffusers by one less; only our own network has both.
        "_time_freq_shift": 0.0,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": plan.width // heads,
        "in_channels": plan.in_channels,
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": heads,
        "num_embeds_ada_norm": plan.classes,
        "num_layers": plan.layers,
        "out_channels": plan.out_channels,
        "patch_size": plan.patch,
        "sample_size": sample_size,
    }


def dit_pieces(plan: DiTPlan) -> list[Piece]:
    """The table of the DiT. diffusers has an embedder of time and class in every block: the one is repeated."""
    width, patch = plan.width, plan.patch
    pieces = layer("pos_embed.proj", "x_embedder.proj", (width, plan.in_channels, patch, patch))
    for index in range(plan.layers):
        pieces += _block(f"transformer_blocks.{index}", f"blocks.{index}", plan)
    outputs = plan.out_channels * patch**2
    return [
        *pieces,
        *layer("proj_out_1", "final_layer.adaLN_modulation.1", (2 * width, width)),
        *layer("proj_out_2", "final_layer.linear", (outputs, width)),
    ]


def _block(target: str, source: str, plan: DiTPlan) -> list[Piece]:
    width = plan.width
    embedder = f"{target}.norm1.emb"
    table = "embedding_table.weight"
    attention = [f"{target}.attn1.to_{name}" for name in "qkv"]
    return [
        *layer(f"{embedder}.timestep_embedder.linear_1", "t_embedder.mlp.0", (width, FREQUENCIES)),
        *layer(f"{embedder}.timestep_embedder.linear_2", "t_embedder.mlp.2", (width, width)),
        whole(f"{embedder}.class_embedder.{table}", f"y_embedder.{table}", (plan.classes + 1, width)),
        *layer(f"{target}.norm1.linear", f"{source}.adaLN_modulation.1", (6 * width, width)),
        *fused(attention, f"{source}.attn.qkv.weight", f"{source}.attn.qkv.bias", width),
        *layer(f"{target}.attn1.to_out.0", f"{source}.attn.proj", (width, width)),
        *layer(f"{target}.ff.net.0.proj", f"{source}.mlp.fc1", (EXPANSION * width, width)),
        *layer(f"{target}.ff.net.2", f"{source}.mlp.fc2", (width, EXPANSION * width)),
    ]


def position_table(width: int, side: int) -> Tensor:
    """The positions that the network computes for itself: sines and cosines of column and row.

    Args:
        width: Channels, a multiple of 4.
        side: Patches along one side.

    Returns:
        [side * side, width], float64; the first half of the channels is the column's.
    """
    quarter = width // 4
    steps = torch.arange(quarter, dtype=torch.float64, device="cpu")
    places = torch.arange(side, dtype=torch.float64, device="cpu")
    angles = places[:, None] * 10000.0 ** (-steps / quarter)
    one = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([one.repeat(side, 1), one.repeat_interleave(side, dim=0)], dim=1)


def check_positions(stored: Tensor, plan: DiTPlan) -> None:
    """Refuse a table of positions that is another than the computed one, which takes its place.

    Args:
        stored: [1, cells, width].
        plan: Sizes of the network, with a side.

    Raises:
        CheckpointError: They differ: the positions were learned, or interpolated.
    """
    assert plan.side is not None, "read from this table"
    difference = (stored[0].double() - position_table(plan.width, plan.side // plan.patch)).abs().max()
    if not difference <= TOLERANCE:
        raise CheckpointError(
            "the DiT is none that can be converted",
            [
                f"{POSITIONS} differs by up to {float(difference):.3g} from the sines and cosines of the original"
            ],
            hint="the network of diffusers computes its positions; other ones cannot be stored",
        )
