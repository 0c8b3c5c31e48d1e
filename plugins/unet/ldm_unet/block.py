"""The layers that stages are made of: residual block, attention, and the two resamplings."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.linear import TokenLinear
from ldm_unet.blur import Blur
from ldm_unet.config import UNetConfig
from ldm_unet.convolution import Convolution
from ldm_unet.in_place import activated, added
from ldm_unet.stage_kind import default_groups
from ldm_unet.upsampling import folds, upsampled_conv

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}


@final
class ResnetBlock(nn.Module):
    """Norm, activate, convolve, twice, around a shortcut; time enters before or at the second norm.

    Args:
        config: Flavour and norms.
        in_channels: Channels in.
        out_channels: Channels out.
        scale: What the sum with the shortcut is divided by.
        resample: `down` or `up` changes the resolution between the two halves, without weights.
        groups: Of the two norms; None means those of the config.
        blurred: Whether a change of resolution blurs, and the shortcut has weights without need.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        *,
        scale: float = 1.0,
        resample: str | None = None,
        groups: tuple[int, int] | None = None,
        blurred: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.resample = resample
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.activation = ACTIVATION[config.act_fn]
        before, after = groups or (config.norm_num_groups or default_groups(in_channels),) * 2
        eps = config.norm_eps
        self.norm1 = nn.GroupNorm(before, in_channels, eps)
        self.conv1 = Convolution(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(
            config.time_width, 2 * out_channels if self.scale_shift else out_channels
        )
        self.norm2 = nn.GroupNorm(after, out_channels, eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = Convolution(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels and not blurred
        self.conv_shortcut = None if same else Convolution(in_channels, out_channels, 1)
        self.blur = Blur(resample) if blurred and resample is not None else None

    def forward(self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "t d"]) -> Float[Tensor, "b k i j"]:
        """[B, in_channels, H, W] to [B, out_channels, H', W'].

        Args:
            x: Features.
            time: The activated time embedding, [1 or B, D].
        """
        h = activated(self.activation, self.norm1(x), self.norm1)
        if self.blur is not None:
            x, h = self.blur(x), self.blur(h)
        elif self.resample is not None:
            x, h = _resize(x, self.resample), _resize(h, self.resample)
        h = self.conv1(h)
        shift: Tensor = self.time_emb_proj(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(added(shift, h, self.conv1))
        h = self.conv2(self.dropout(activated(self.activation, h, self.norm2)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        h = added(x, h, self.conv2)
        return h if self.scale == 1.0 else h / self.scale


def _resize(x: Tensor, direction: str) -> Tensor:
    return F.avg_pool2d(x, 2) if direction == "down" else F.interpolate(x, scale_factor=2.0, mode="nearest")


@final
class Attention(nn.Module):
    """Multi-head self-attention over all positions, around a shortcut.

    Args:
        config: Head size and epsilon.
        channels: In and out.
        groups: Of the norm before it; None leaves the norm out.
        scale: What the sum with the shortcut is divided by.
    """

    def __init__(self, config: UNetConfig, channels: int, groups: int | None, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        head = config.attention_head_dim or channels
        self.heads = channels // head
        inner = self.heads * head
        self.group_norm = nn.GroupNorm(groups, channels, config.norm_eps) if groups is not None else None
        self.to_q = TokenLinear(channels, inner)
        self.to_k = TokenLinear(channels, inner)
        self.to_v = TokenLinear(channels, inner)
        self.to_out = nn.ModuleList([TokenLinear(inner, channels)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """[B, channels, H, W] to the same."""
        h: Tensor = x if self.group_norm is None else self.group_norm(x)
        tokens = h.flatten(2).transpose(1, 2)
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        tokens = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        h = self.to_out[0](tokens).transpose(1, 2).unflatten(2, x.shape[2:])
        h = x + h
        return h if self.scale == 1.0 else h / self.scale


@final
class Downsample(nn.Module):
    """Halve the resolution with a strided convolution.

    Args:
        channels: In and out.
        padding: 1 pads on every side, 0 on the right and below only.
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = Convolution(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """[B, channels, H, W] to [B, channels, H / 2, W / 2]."""
        if self.padding == 0:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.conv(x)
        return x


@final
class Upsample(nn.Module):
    """Double the resolution by repetition, then convolve.

    Args:
        channels: In and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """[B, channels, H, W] to [B, channels, 2 H, 2 W]."""
        if folds(x, self.conv):
            return upsampled_conv(x, self.conv.weight, self.conv.bias)
        x = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x
