"""Attention to text: the spatial transformer of latent diffusion models (section 3.3, Rombach et al. 2022)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.linear import TokenLinear, linear
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_plan import StagePlan
from ldm_unet.context import Context
from ldm_unet.in_place import may_overwrite

_NORM_EPS = 1e-6
"""Of the group norm; diffusers has no key for it."""
_WIDENING = 4


@final
class SpatialTransformer(nn.Module):
    """Transformer blocks over all positions, between two projections, around a shortcut.

    Args:
        config: Norm and sort of projection.
        plan: Width, heads and text.
        depth: Number of transformer blocks.
    """

    def __init__(self, config: UNetConditionConfig, plan: StagePlan, depth: int) -> None:
        super().__init__()
        width, inner = plan.width, plan.width // plan.heads * plan.heads
        self.norm = nn.GroupNorm(config.groups, width, _NORM_EPS)
        linear = config.use_linear_projection
        self.proj_in = TokenLinear(width, inner) if linear else nn.Conv2d(width, inner, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(plan, inner) for _ in range(depth)])
        self.proj_out = TokenLinear(inner, width) if linear else nn.Conv2d(inner, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        """[B, C, H, W] to the same."""
        tokens = _project(self.proj_in, self.norm(x).flatten(2).transpose(1, 2).contiguous())
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + to_grid(_project(self.proj_out, tokens), x)


@final
class TransformerBlock(nn.Module):
    """Attention to positions, attention to text, and a feed-forward layer, each behind a norm and around a shortcut.

    Args:
        plan: Heads and text; with `only_cross` the first attention reads the text too.
        width: Channels of a position.
    """

    def __init__(self, plan: StagePlan, width: int) -> None:
        super().__init__()
        self.only_cross = plan.only_cross
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = HeadedAttention(width, plan.text_width if plan.only_cross else width, plan.heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = HeadedAttention(width, plan.text_width, plan.heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, tokens: Float[Tensor, "b n d"], context: Context) -> Float[Tensor, "b n d"]:
        """[B, H * W, width] to the same."""
        assert context.text is not None
        normed = self.norm1(tokens)
        # Where the first attention reads the text, diffusers does not mask it.
        tokens = tokens + self.attn1(normed, context.text if self.only_cross else normed, None)
        tokens = tokens + self.attn2(self.norm2(tokens), context.text, context.text_bias)
        result: Tensor = tokens + self.ff(self.norm3(tokens))
        return result


@final
class HeadedAttention(nn.Module):
    """Multi-head attention whose keys and values may come from elsewhere.

    Args:
        width: Channels of queries and of the result.
        source_width: Channels of what is read.
        heads: Number of heads.
    """

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = TokenLinear(width, width, bias=False)
        self.to_k = TokenLinear(source_width, width, bias=False)
        self.to_v = TokenLinear(source_width, width, bias=False)
        self.to_out = nn.ModuleList([TokenLinear(width, width)])

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        source: Float[Tensor, "s m c"],
        bias: Float[Tensor, "t 1 1 m"] | None,
    ) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same.

        Args:
            x: What asks.
            source: What is read, [1 or B, M, source_width].
            bias: Added to the scores of what is read.
        """
        read = attend(self.to_q(x), self.to_k(source), self.to_v(source), self.heads, bias)
        result: Tensor = self.to_out[0](read)
        return result


@final
class FeedForward(nn.Module):
    """Widen, gate with a GELU (GEGLU, Shazeer 2020), and narrow again.

    Args:
        width: Channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # In the middle diffusers has a dropout, which it leaves at zero.
        self.net = nn.ModuleList(
            [Gate(width, _WIDENING * width), nn.Identity(), TokenLinear(_WIDENING * width, width)]
        )

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[B, N, width] to the same."""
        narrowed: Tensor = self.net[2](self.net[0](x))
        return narrowed


@final
class Gate(nn.Module):
    """One linear layer whose second half, through a GELU, multiplies its first.

    Args:
        width: Channels in.
        inner: Channels out.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = TokenLinear(width, 2 * inner)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """[B, N, width] to [B, N, inner]."""
        if may_overwrite(self.proj):
            # Two products of half the size: a large result is memory that the system has to hand out anew each time.
            value, gate = (linear(x, *half) for half in zip(*self._halves(), strict=True))
        else:
            value, gate = self.proj(x).chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)

    def _halves(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.proj.weight.chunk(2), self.proj.bias.chunk(2)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Attention over flat heads.

    Args:
        query: [B, N, D].
        key: [1 or B, M, D].
        value: [1 or B, M, D].
        heads: Number of heads, a divisor of D.
        bias: Added to the scores, [1 or B, 1, 1, M].

    Returns:
        [B, N, D].
    """
    batch = len(query)
    query, key, value = (
        flat.reshape(*flat.shape[:2], heads, -1).transpose(1, 2).expand(batch, -1, -1, -1)
        for flat in (query, key, value)
    )
    return F.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)


def to_grid(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, H * W, C] as [B, C, H, W], a view.

    Args:
        tokens: Positions, row by row.
        like: Gives H and W.
    """
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *like.shape[2:])


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    """A linear layer, or a 1 x 1 convolution as the linear layer that it is, on [B, N, C].

    Tokens are contiguous: else torch adds up in another order for weights that require no gradient.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    assert isinstance(bias, torch.Tensor)
    return linear(tokens, weight.flatten(1), bias)
