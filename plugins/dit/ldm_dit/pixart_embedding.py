"""What tells PixArt when, how large and what text: one embedding for all blocks (section 2.3, Chen et al. 2023)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_dit.embedding import TimestepEmbedder
from ldm_dit.modulation import Modulation
from ldm_registry.linear import TokenLinear


@final
class SizedTimeEmbedder(nn.Module):
    """Time and, where the network sees them, the image's height, width and aspect ratio.

    Args:
        width: Channels of a token; a multiple of 3 with sizes.
        sees_size: Whether there are sizes.
    """

    def __init__(self, width: int, *, sees_size: bool) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)
        self.resolution_embedder = TimestepEmbedder(width // 3) if sees_size else None
        self.aspect_ratio_embedder = TimestepEmbedder(width // 3) if sees_size else None

    def forward(
        self, time: Float[Tensor, "t k"], sizes: Float[Tensor, "s 3 k"] | None
    ) -> Float[Tensor, "b d"]:
        """[B, width]; B is 1 where both have one row that holds for the whole batch.

        Args:
            time: Features of time, [1 or B, 256].
            sizes: Features of height, width and aspect ratio, [1 or B, 3, 256].
        """
        embedding: Tensor = self.timestep_embedder(time)
        if sizes is None or self.resolution_embedder is None or self.aspect_ratio_embedder is None:
            return embedding
        resolution = self.resolution_embedder(sizes[:, :2]).flatten(1)
        return embedding + torch.cat([resolution, self.aspect_ratio_embedder(sizes[:, 2])], dim=1)


@final
class AdaptiveNormSingle(nn.Module):
    """The six modulations that all blocks share, before each adds its own table (adaLN-single).

    Args:
        width: Channels of a token.
        sees_size: Whether the network sees the image's size.
    """

    def __init__(self, width: int, *, sees_size: bool) -> None:
        super().__init__()
        self.emb = SizedTimeEmbedder(width, sees_size=sees_size)
        self.linear = Modulation(width, 6 * width)

    def forward(
        self, time: Float[Tensor, "t k"], sizes: Float[Tensor, "s 3 k"] | None
    ) -> tuple[Float[Tensor, "b 6 d"], Float[Tensor, "b d"]]:
        """The modulations [B, 6, width], and the embedding [B, width] that they come from; B may be 1.

        Args:
            time: Features of time, [1 or B, 256].
            sizes: Features of height, width and aspect ratio, [1 or B, 3, 256].
        """
        embedding = self.emb(time, sizes)
        return self.linear(F.silu(embedding)).unflatten(1, (6, -1)), embedding


@final
class CaptionProjection(nn.Module):
    """Two linear layers from a text encoder's channels to the width.

    Args:
        channels: Of the text embedding.
        width: Channels of a token.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = TokenLinear(channels, width)
        self.linear_2 = TokenLinear(width, width)

    def forward(self, text: Float[Tensor, "b t c"]) -> Float[Tensor, "b t d"]:
        """[B, T, channels] to [B, T, width]."""
        projected: Tensor = self.linear_2(F.gelu(self.linear_1(text), approximate="tanh"))
        return projected
