"""What every block of a conditional UNet is told beside its features."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

_MASKED = -10_000.0
"""Finite, as in diffusers, so that a text without a single token to attend to gives no NaN."""


@dataclass(frozen=True, slots=True)
class Context:
    """Time and text, computed once for all blocks.

    Attributes:
        time: The time embedding after the residual blocks' activation, [1 or B, D].
        raw_time: The same before it.
        text: Tokens [1 or B, T, C]; None where nothing reads text.
        text_bias: What is added to the attention scores of each token, [1 or B, 1, 1, T]; None where all are read.
    """

    time: Float[Tensor, "t d"]
    raw_time: Float[Tensor, "t d"]
    text: Float[Tensor, "s n c"] | None = None
    text_bias: Float[Tensor, "m 1 1 n"] | None = None


def score_bias(mask: Tensor, like: Tensor) -> Tensor:
    """The bias [B, 1, 1, T] that keeps attention off the tokens where a mask [B, T] is false.

    Args:
        mask: True where a token is read.
        like: Gives device and dtype of the result.
    """
    bias = like.new_zeros(mask.shape)
    return bias.masked_fill(~mask.to(like.device), _MASKED)[:, None, None, :]
