"""What tells the transformer where, when and which class: position, time and label embeddings."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

TIME_FEATURES = 256
"""Sinusoids that a time is expanded to, sine and cosine together; fixed by the architecture."""
_MAX_PERIOD = 10_000.0


@lru_cache(maxsize=16)
def position_embedding(width: int, rows: int, columns: int, base: int) -> Tensor:
    """Fixed 2D sine-cosine embedding of a grid of patches.

    Coordinates are stretched so that every grid spans `[0, base)`, the range that the network was trained on.
    The first half of the channels tells the column, the second the row; each half is sines, then cosines
    (as in MAE, He et al. 2022, which DiT takes it from).

    Args:
        width: Channels, a multiple of 4.
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        base: Patches along a side of the grid trained on.

    Returns:
        float32 [1, rows * columns, width] on the CPU, row by row.
    """
    # float32 coordinates and a float64 angle, so that the rounding is that of diffusers' tables.
    row = torch.arange(rows, dtype=torch.float32, device="cpu") / (rows / base)
    column = torch.arange(columns, dtype=torch.float32, device="cpu") / (columns / base)
    quarter = width // 4
    octave = torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter
    frequency = 1.0 / _MAX_PERIOD**octave
    column_angle = column.repeat(rows).double()[:, None] * frequency
    row_angle = row.repeat_interleave(columns).double()[:, None] * frequency
    table = torch.cat([column_angle.sin(), column_angle.cos(), row_angle.sin(), row_angle.cos()], dim=1)
    return table.float()[None]


@final
class PatchEmbed(nn.Module):
    """Cut the latent into patches, project each to a token and add its position.

    Args:
        in_channels: Channels of the latent.
        width: Channels of a token.
        patch_size: Side of a patch, cells.
        sample_size: Side of the latents trained on, cells.
    """

    pos_embed: Tensor

    def __init__(self, in_channels: int, width: int, patch_size: int, sample_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.width = width
        self.base = sample_size // patch_size
        # A private copy: the cached table must not be moved or cast along with a module.
        table = position_embedding(width, self.base, self.base, self.base).clone()
        self.register_buffer("pos_embed", table, persistent=False)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens [B, rows * columns, width] of a latent [B, C, H, W]; any grid of whole patches."""
        patches: Tensor = self.proj(z)
        rows, columns = patches.shape[-2:]
        position = self.pos_embed
        if (rows, columns) != (self.base, self.base):
            position = position_embedding(self.width, rows, columns, self.base).to(position)
        return patches.flatten(2).transpose(1, 2) + position


@final
class TimeFeatures:
    """Sinusoids of the network's time. Two tables of numbers, no module: nothing to load, cast or move.

    `frequency_k = 10000 ** (-k / (half - shift))`, cosines before sines (Vaswani et al. 2017; the shift is that
    of diffusers and of the tensor2tensor code: 1 makes the slowest frequency exactly 1 / 10000).

    Args:
        shift: 1 in diffusers' DiT, 0 in the original one.
    """

    def __init__(self, shift: float) -> None:
        half = TIME_FEATURES // 2
        # The exponent is rounded to float32 step by step, as the tables that checkpoints were trained with.
        self._single = torch.exp(
            -math.log(_MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device="cpu") / (half - shift)
        )
        self._double = torch.exp(
            -math.log(_MAX_PERIOD) * torch.arange(half, dtype=torch.float64, device="cpu") / (half - shift)
        )

    def __call__(
        self, time: Float[Tensor, "*b"], device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "b k"]:
        """Expand times of shape [] or [B] to [1 or B, 256].

        Computed on the CPU, where time lives: float64 for a float64 network, else float32.

        Args:
            time: float64 on the CPU.
            device: Of the result.
            dtype: Of the network and of the result.
        """
        table = self._double if dtype == torch.float64 else self._single
        angle = time.reshape(-1, 1).to(table.dtype) * table
        return torch.cat([angle.cos(), angle.sin()], dim=1).to(device, dtype, non_blocking=True)


@final
class TimestepEmbedder(nn.Module):
    """Two linear layers from time features to the width.

    Args:
        width: Channels of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_FEATURES, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "b k"]) -> Float[Tensor, "b d"]:
        """[B, 256] to [B, width]."""
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return embedding


@final
class LabelEmbedder(nn.Module):
    """One learned vector for each class, and a last one for "no class".

    Args:
        classes: Number of classes; also the null label.
        width: Channels of a token.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """[B] in 0 ... classes to [B, width]."""
        embedding: Tensor = self.embedding_table(label)
        return embedding


@final
class ConditionEmbedder(nn.Module):
    """Time and label, added.

    Args:
        classes: Number of classes; also the null label.
        width: Channels of a token.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)
        self.class_embedder = LabelEmbedder(classes, width)

    def forward(self, features: Float[Tensor, "t k"], label: Int[Tensor, " l"]) -> Float[Tensor, "b d"]:
        """[B, width]; either input may have a single row that holds for the whole batch."""
        embedding: Tensor = self.timestep_embedder(features) + self.class_embedder(label)
        return embedding
