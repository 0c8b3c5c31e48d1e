"""The two plainer sorts of attention: to positions alone, and to positions and text at once."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.linear import TokenLinear
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_kind import CROSS_NORM_GROUPS
from ldm_unet.condition_plan import StagePlan
from ldm_unet.context import Context
from ldm_unet.transformer import SpatialTransformer, attend, to_grid

_EPS = 1e-5
"""Of the norms of joint attention; diffusers has no key for it."""


@final
class PositionAttention(nn.Module):
    """Multi-head self-attention over all positions, around a shortcut.

    Args:
        config: Norm.
        plan: Width, and channels of a head.
    """

    def __init__(self, config: UNetConditionConfig, plan: StagePlan) -> None:
        super().__init__()
        width = plan.width
        self.heads = width // plan.heads
        inner = self.heads * plan.heads
        self.group_norm = nn.GroupNorm(config.groups, width, config.norm_eps)
        self.to_q = TokenLinear(width, inner)
        self.to_k = TokenLinear(width, inner)
        self.to_v = TokenLinear(width, inner)
        self.to_out = nn.ModuleList([TokenLinear(inner, width)])

    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        """[B, C, H, W] to the same; the context is not read."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).contiguous()
        read = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), self.heads, None)
        return x + to_grid(self.to_out[0](read), x)


@final
class JointAttention(nn.Module):
    """Attention to text and positions in one softmax, around a shortcut (DeepFloyd IF, unCLIP).

    Args:
        config: Norms.
        plan: Width, channels of a head, text; with `only_cross` positions are not read.
    """

    def __init__(self, config: UNetConditionConfig, plan: StagePlan) -> None:
        super().__init__()
        width, text = plan.width, plan.text_width
        self.heads = width // plan.heads
        self.group_norm = nn.GroupNorm(config.groups, width, _EPS)
        self.norm_cross: nn.Module | None = None
        if config.cross_attention_norm == "layer_norm":
            self.norm_cross = nn.LayerNorm(text, _EPS)
        elif config.cross_attention_norm == "group_norm":
            self.norm_cross = nn.GroupNorm(CROSS_NORM_GROUPS, text, _EPS)
        self.to_q = TokenLinear(width, width)
        self.to_k = None if plan.only_cross else TokenLinear(width, width)
        self.to_v = None if plan.only_cross else TokenLinear(width, width)
        self.add_k_proj = TokenLinear(text, width)
        self.add_v_proj = TokenLinear(text, width)
        self.to_out = nn.ModuleList([TokenLinear(width, width)])

    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        """[B, C, H, W] to the same."""
        assert context.text is not None
        text, bias = context.text, context.text_bias
        if isinstance(self.norm_cross, nn.GroupNorm):
            text = self.norm_cross(text.transpose(1, 2)).transpose(1, 2)
        elif self.norm_cross is not None:
            text = self.norm_cross(text)
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).contiguous()
        key, value = self.add_k_proj(text), self.add_v_proj(text)
        if self.to_k is not None and self.to_v is not None:
            key = _beside(key, self.to_k(tokens))
            value = _beside(value, self.to_v(tokens))
            bias = None if bias is None else F.pad(bias, (0, tokens.shape[1]))
        read = attend(self.to_q(tokens), key, value, self.heads, bias)
        return x + to_grid(self.to_out[0](read), x)


def attention(config: UNetConditionConfig, plan: StagePlan, depth: int) -> nn.Module:
    """The attention that follows a residual block of this stage.

    Args:
        config: Flavour.
        plan: The stage; it has attention.
        depth: Transformer blocks, where it is a transformer.
    """
    match plan.kind.attention:
        case "cross":
            return SpatialTransformer(config, plan, depth)
        case "joint":
            return JointAttention(config, plan)
        case _:
            return PositionAttention(config, plan)


def _beside(text: Tensor, positions: Tensor) -> Tensor:
    return torch.cat([text.expand(len(positions), -1, -1), positions], dim=1)
