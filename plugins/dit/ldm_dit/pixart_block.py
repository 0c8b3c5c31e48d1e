"""The PixArt block: adaLN-single, and attention to text (Fig. 4, Chen et al. 2023)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_dit.attention import Attention, FeedForward
from ldm_dit.block import modulated_norm
from ldm_dit.pixart_config import PixArtConfig


@final
class PixArtBlock(nn.Module):
    """Attention and feed-forward, normed, modulated and gated; between the two, attention to text without a norm.

    Args:
        config: Sizes.
    """

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.num_attention_heads, config.dropout
        context, bias = config.cross_attention_dim, config.attention_bias
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.norm1 = nn.LayerNorm(width, config.norm_eps, config.norm_elementwise_affine)
        self.attn1 = Attention(width, heads, bias=bias, dropout=dropout)
        self.attn2: Attention | None = None
        if context is not None:
            self.attn2 = Attention(width, heads, context=context, bias=bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(width, config.norm_eps, config.norm_elementwise_affine)
        self.ff = FeedForward(width, config.activation_fn, dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        modulation: Float[Tensor, "t 6 d"],
        text: Float[Tensor, "b m c"] | None,
        bias: Float[Tensor, "b 1 1 m"] | None,
    ) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same.

        Args:
            x: Tokens.
            modulation: [1 or B, 6, width]: shift, scale and gate of attention, then of feed-forward.
            text: [B, T, cross_attention_dim]; None without attention to text.
            bias: What is added to the logits of the text.
        """
        table = self.scale_shift_table + modulation
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = table.chunk(6, dim=1)
        x = torch.addcmul(x, gate_attn, self.attn1(modulated_norm(x, shift_attn, scale_attn, self.norm1)))
        if self.attn2 is not None:
            x = x + self.attn2(x, text, bias)
        return torch.addcmul(x, gate_ff, self.ff(modulated_norm(x, shift_ff, scale_ff, self.norm2)))
