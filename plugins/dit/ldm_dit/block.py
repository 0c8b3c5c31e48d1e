"""The DiT block with adaLN-zero (Fig. 3, right, of Peebles and Xie 2023)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_dit.attention import Attention, FeedForward
from ldm_dit.config import DiTConfig
from ldm_dit.embedding import ConditionEmbedder
from ldm_dit.modulation import Modulation
from ldm_dit.watched import is_unwatched

_EPS = 1e-6


@final
class AdaptiveNorm(nn.Module):
    """Layer norm whose shift, scale and gates come from time and label, with an embedder of its own.

    Args:
        classes: Number of classes.
        width: Channels of a token.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.emb = ConditionEmbedder(classes, width)
        self.linear = Modulation(width, 6 * width)

    def forward(self, features: Float[Tensor, "t k"], label: Int[Tensor, " l"]) -> tuple[Tensor, ...]:
        """The six modulations, each [B or 1, 1, width]: shift, scale, gate of attention, then of feed-forward."""
        modulation: Tensor = self.linear(F.silu(self.emb(features, label)))
        return modulation[:, None].chunk(6, dim=2)


@final
class Block(nn.Module):
    """Attention and feed-forward, each normed, modulated and gated by time and label.

    Args:
        config: Sizes.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.norm1 = AdaptiveNorm(config.num_embeds_ada_norm, width)
        self.attn1 = Attention(width, config.num_attention_heads, bias=config.attention_bias, dropout=dropout)
        self.norm3 = nn.LayerNorm(width, config.norm_eps, config.norm_elementwise_affine)
        self.ff = FeedForward(width, config.activation_fn, dropout)

    def forward(
        self, x: Float[Tensor, "b n d"], features: Float[Tensor, "t k"], label: Int[Tensor, " l"]
    ) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same.

        Args:
            x: Tokens.
            features: Time features [1 or B, 256].
            label: [1 or B].
        """
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = self.norm1(features, label)
        x = torch.addcmul(x, gate_attn, self.attn1(modulated_norm(x, shift_attn, scale_attn)))
        return torch.addcmul(x, gate_ff, self.ff(modulated_norm(x, shift_ff, scale_ff, self.norm3)))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
    """Layer norm, then `x * (1 + scale) + shift`.

    Without gradients, a modulation that holds for the whole batch takes the place of the weights that the norm does
    not have: one pass less, and on the CPU torch's kernel is faster with weights than without.

    Args:
        x: [B, N, D].
        shift: [1 or B, 1, D].
        scale: [1 or B, 1, D].
        norm: A norm, perhaps with weights; None for one without them, of epsilon 1e-6, which is in no config.
    """
    bare = norm is None or (type(norm) is nn.LayerNorm and norm.weight is None and is_unwatched(norm))
    if bare and len(shift) == len(scale) == 1 and not torch.is_grad_enabled():
        eps = _EPS if norm is None else norm.eps
        return F.layer_norm(x, x.shape[-1:], (1 + scale).flatten(), shift.flatten(), eps)
    x = F.layer_norm(x, x.shape[-1:], eps=_EPS) if norm is None else norm(x)
    return torch.addcmul(shift, x, 1 + scale)
