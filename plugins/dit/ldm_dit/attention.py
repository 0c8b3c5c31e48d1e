"""The two halves of a transformer block: attention, and the feed-forward layers."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_dit.watched import may_overwrite
from ldm_registry.linear import TokenLinear

_GATED = ("geglu", "swiglu")
_ROOT = math.sqrt(2.0 / math.pi)
PART = 2**19
"""Numbers that are activated at once: from 2**20 on, memory that large goes back to the system and comes anew for every
block, which takes longer than the activation; of fewer than these the calls count."""


@final
class Attention(nn.Module):
    """Multi-head attention of tokens to one another, or to the tokens of a context.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        context: Channels of the context's tokens; None for attention among the tokens.
        bias: Whether query, key and value have a bias.
        dropout: Dropout probability of what comes out while training.
    """

    def __init__(
        self, width: int, heads: int, *, context: int | None = None, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = TokenLinear(width, width, bias=bias)
        self.to_k = TokenLinear(context or width, width, bias=bias)
        self.to_v = TokenLinear(context or width, width, bias=bias)
        self.to_out = nn.ModuleList([TokenLinear(width, width), nn.Dropout(dropout)])

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Float[Tensor, "b t c"] | None = None,
        bias: Float[Tensor, "b 1 1 t"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same.

        Args:
            x: Tokens.
            context: What they attend to; None for themselves.
            bias: What is added to the logits.
        """
        source = x if context is None else context
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, tokens in ((self.to_q, x), (self.to_k, source), (self.to_v, source))
        )
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
        for layer in self.to_out:
            x = layer(x)
        return x


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, section 2 of Hendrycks and Gimpel 2016.

    `x * sigmoid(2 u)` with `u = sqrt(2 / pi) * (x + 0.044715 x**3)`, since `(1 + tanh u) / 2 = sigmoid(2 u)`: on the
    CPU torch's tanh takes more than three times as long as its sigmoid. Where gradients are wanted, or less than
    single precision is given, torch's own kernel has its turn.
    """
    return _gate(x).mul_(x) if _has_gate(x) else F.gelu(x, approximate="tanh")


def gelu_tanh_(x: Tensor) -> Tensor:
    """`gelu_tanh` in the memory of `x`, part by part: no second array of its size is needed.

    Args:
        x: Contiguous, and of no use to anybody else.
    """
    if not _has_gate(x):
        return F.gelu(x, approximate="tanh")
    for part in torch.split(x.view(-1), PART):
        part.mul_(_gate(part))
    return x


def _has_gate(x: Tensor) -> bool:
    return not x.requires_grad and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _gate(x: Tensor) -> Tensor:
    """`sigmoid(2 u)`."""
    twice = x.new_full((), 2 * _ROOT)
    return torch.addcmul(twice, x, x, value=2 * 0.044715 * _ROOT).mul_(x).sigmoid_()


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
        self.proj = TokenLinear(width, 2 * hidden if activation in _GATED else hidden)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """[B, N, width] to [B, N, hidden]."""
        x = self.proj(x)
        match self.activation:
            case "gelu":
                return F.gelu(x)
            case "gelu-approximate":
                return gelu_tanh_(x) if may_overwrite(self.proj) else gelu_tanh(x)
            case "geglu":
                value, gate = x.chunk(2, dim=-1)
                return value * F.gelu(gate)
            case "swiglu":
                value, gate = x.chunk(2, dim=-1)
                return value * F.silu(gate)
            case "geglu-approximate":
                # Not gated in spite of its name: x * sigmoid(1.702 x), section 2 of Hendrycks and Gimpel 2016.
                return x * (1.702 * x).sigmoid()
            case _:
                return F.silu(x)


@final
class FeedForward(nn.Module):
    """Expand each token fourfold and back.

    Args:
        width: Channels of a token.
        activation: A word of `ACTIVATIONS`.
        dropout: Dropout probability in between, while training.
    """

    def __init__(self, width: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [Expand(width, 4 * width, activation), nn.Dropout(dropout), TokenLinear(4 * width, width)]
        )

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same."""
        for layer in self.net:
            x = layer(x)
        return x
