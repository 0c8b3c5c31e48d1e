"""The DiT block with adaLN-zero (Fig. 3, right, of Peebles and Xie 2023)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_dit.config import DiTConfig
from ldm_dit.embedding import ConditionEmbedder

_GATED = ("geglu", "swiglu")


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
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, features: Float[Tensor, "t k"], label: Int[Tensor, " l"]) -> tuple[Tensor, ...]:
        """The six modulations, each [B or 1, 1, width]: shift, scale, gate of attention, then of feed-forward."""
        modulation: Tensor = self.linear(F.silu(self.emb(features, label)))
        return modulation[:, None].chunk(6, dim=2)


@final
class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens.

    Args:
        config: Sizes.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.num_attention_heads
        self.to_q = nn.Linear(width, width, bias=config.attention_bias)
        self.to_k = nn.Linear(width, width, bias=config.attention_bias)
        self.to_v = nn.Linear(width, width, bias=config.attention_bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(config.dropout)])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        x = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        for layer in self.to_out:
            x = layer(x)
        return x


@final
class Expand(nn.Module):
    """The first half of the feed-forward: a linear layer and its activation.

    Args:
        width: Channels in.
        hidden: Channels out.
        activation: A word of `ACTIVATIONS`.
    """

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.proj = nn.Linear(width, 2 * hidden if activation in _GATED else hidden)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """[B, N, width] to [B, N, hidden]."""
        x = self.proj(x)
        match self.activation:
            case "gelu":
                return F.gelu(x)
            case "gelu-approximate":
                return F.gelu(x, approximate="tanh")
            case "geglu":
                value, gate = x.chunk(2, dim=-1)
                return value * F.gelu(gate)
            case "swiglu":
                value, gate = x.chunk(2, dim=-1)
                return value * F.silu(gate)
            case "geglu-approximate":
                # Not gated in spite of its name: x * sigmoid(1.702 x), section 2 of Hendrycks and Gimpel 2016.
                return x * torch.sigmoid(1.702 * x)
            case _:
                return F.silu(x)


@final
class FeedForward(nn.Module):
    """Expand each token fourfold and back.

    Args:
        config: Sizes.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = 4 * config.width
        self.net = nn.ModuleList(
            [
                Expand(config.width, hidden, config.activation_fn),
                nn.Dropout(config.dropout),
                nn.Linear(hidden, config.width),
            ]
        )

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same."""
        for layer in self.net:
            x = layer(x)
        return x


@final
class Block(nn.Module):
    """Attention and feed-forward, each normed, modulated and gated by time and label.

    Args:
        config: Sizes.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(config.num_embeds_ada_norm, config.width)
        self.attn1 = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.width, config.norm_eps, config.norm_elementwise_affine)
        self.ff = FeedForward(config)

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
        x = torch.addcmul(x, gate_attn, self.attn1(modulate(layer_norm(x), shift_attn, scale_attn)))
        return torch.addcmul(x, gate_ff, self.ff(modulate(self.norm3(x), shift_ff, scale_ff)))


def layer_norm(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Layer norm without weights; its epsilon is fixed at 1e-6 and is in no config."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x * (1 + scale) + shift`, in one pass.

    Args:
        x: [B, N, D].
        shift: [1 or B, 1, D].
        scale: [1 or B, 1, D].
    """
    return torch.addcmul(shift, x, 1 + scale)
