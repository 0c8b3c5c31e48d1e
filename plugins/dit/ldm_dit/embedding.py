"""What tells the transformer when and which class: time and label embeddings."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

TIME_FEATURES = 256
"""Sinusoids that a time is expanded to, sine and cosine together; fixed by the architecture."""
_MAX_PERIOD = 10_000.0


@final
class TimeFeatures:
    """Sinusoids of the network's time. Two tables of numbers, no module: nothing to load, cast or move.

    `frequency_k = 10000 ** (-k / (half - shift))`, cosines before sines (Vaswani et al. 2017; the shift is that
    of diffusers and of the tensor2tensor code: 1 makes the slowest frequency exactly 1 / 10000).

    Args:
        shift: 1 in diffusers' DiT, 0 in the original one and in PixArt.
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

        Computed where they live, the network's time on the CPU: in float64 for a float64 network, else float32.

        Args:
            time: Any real numbers.
            device: Of the result.
            dtype: Of the network and of the result.
        """
        table = (self._double if dtype == torch.float64 else self._single).to(time.device)
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

    def forward(self, features: Float[Tensor, "*b k"]) -> Float[Tensor, "*b d"]:
        """[..., 256] to [..., width]."""
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
