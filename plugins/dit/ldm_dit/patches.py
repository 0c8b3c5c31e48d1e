"""Latents as patches: cut, projected and placed on a grid; and put together again."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_registry.interfaces import DenoiserOutput

_MAX_PERIOD = 10_000.0


@lru_cache(maxsize=16)
def position_embedding(width: int, rows: int, columns: int, base: int, zoom: float = 1.0) -> Tensor:
    """Fixed 2D sine-cosine embedding of a grid of patches.

    Coordinates are stretched so that every grid spans `[0, base / zoom)`, the range that the network was trained
    on. The first half of the channels tells the column, the second the row; each half is sines, then cosines
    (as in MAE, He et al. 2022, which DiT takes it from; the zoom is that of PixArt-alpha, Chen et al. 2023).

    Args:
        width: Channels, a multiple of 4.
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        base: Patches along a side of the grid trained on.
        zoom: How many times finer the grid is than that of the network that this one grew out of.

    Returns:
        float32 [1, rows * columns, width] on the CPU, row by row.
    """
    # float32 coordinates and a float64 angle, so that the rounding is that of diffusers' tables.
    row = torch.arange(rows, dtype=torch.float32, device="cpu") / (rows / base) / zoom
    column = torch.arange(columns, dtype=torch.float32, device="cpu") / (columns / base) / zoom
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
        zoom: As for `position_embedding`.
    """

    pos_embed: Tensor

    def __init__(
        self, in_channels: int, width: int, patch_size: int, sample_size: int, zoom: float = 1.0
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.width = width
        self.base = sample_size // patch_size
        self.zoom = zoom
        # A private copy: the cached table must not be moved or cast along with a module.
        table = position_embedding(width, self.base, self.base, self.base, zoom).clone()
        self.register_buffer("pos_embed", table, persistent=False)
        self._other: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens [B, rows * columns, width] of a latent [B, C, H, W]; any grid of whole patches."""
        patches: Tensor = self.proj(z)
        # Channels have to lie fastest: a sum takes the layout of its terms over, and every layer norm would copy it.
        tokens = patches.flatten(2).transpose(1, 2).contiguous()
        return tokens + self._position(patches.shape[-2], patches.shape[-1])

    def _position(self, rows: int, columns: int) -> Tensor:
        here = self.pos_embed
        if (rows, columns) == (self.base, self.base):
            return here
        # Kept where it is used: a sampler asks for the same grid at every step.
        if self._other is not None:
            grid, position = self._other
            if grid == (rows, columns) and position.device == here.device and position.dtype == here.dtype:
                return position
        position = position_embedding(self.width, rows, columns, self.base, self.zoom).to(here)
        self._other = ((rows, columns), position)
        return position


def unpatch(
    tokens: Float[Tensor, "b n k"], rows: int, columns: int, patch_size: int, channels: int
) -> DenoiserOutput:
    """The output of a denoiser from one flattened patch for each token.

    Args:
        tokens: [B, rows * columns, patch_size**2 * K], the channel fastest; K is `channels`, or twice that with
            a learned variance.
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        patch_size: Side of a patch, cells.
        channels: Of the latent.

    Returns:
        [B, channels, rows * patch_size, columns * patch_size], each.
    """
    grid = tokens.reshape(len(tokens), rows, columns, patch_size, patch_size, -1)
    image = grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    if image.shape[1] == channels:
        return DenoiserOutput(image)
    prediction, variance = image.chunk(2, dim=1)
    return DenoiserOutput(prediction, variance)
