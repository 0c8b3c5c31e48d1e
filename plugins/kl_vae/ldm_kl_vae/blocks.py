"""The residual, attention and resampling blocks that both networks are made of.

Module names follow diffusers, so that the keys of the state dict do. All tensors are [B, C, H, W]; channels_last
stays so, and comes out of attention whatever went in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_kl_vae.group_norm import GroupNorm
from ldm_kl_vae.in_place import activated, added
from ldm_kl_vae.upsampling import can_fold, upsampled_conv
from ldm_registry.maps import Local, Map
from ldm_registry.tiling import Walk

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}

OLD_ATTENTION_NAMES = (
    (r"(\.attentions\.\d+)\.query\.(weight|bias)$", r"\1.to_q.\2"),
    (r"(\.attentions\.\d+)\.key\.(weight|bias)$", r"\1.to_k.\2"),
    (r"(\.attentions\.\d+)\.value\.(weight|bias)$", r"\1.to_v.\2"),
    (r"(\.attentions\.\d+)\.proj_attn\.(weight|bias)$", r"\1.to_out.0.\2"),
)
"""Names that old versions of diffusers gave the linear layers of an attention, for `re.sub`; the norm kept its own."""

# Not a config key of any published autoencoder of this family: fixed in the architecture.
NORM_EPS = 1e-6


def group_norm(channels: int, groups: int) -> GroupNorm:
    """Group normalisation (Wu and He 2018) with the epsilon of this architecture."""
    return GroupNorm(groups, channels, eps=NORM_EPS)


@runtime_checkable
class Walked(Protocol):
    """A layer that large images can be walked through."""

    def on_map(self, x: Map, walk: Walk) -> Map:
        """What `forward` does, on a map."""


@final
class ResnetBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016) of two 3x3 convolutions.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; where they differ, a 1x1 convolution carries the skip connection.
        groups: Groups of the normalisations.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, activation: str) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = ACTIVATIONS[activation]()
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, H, W]."""
        return self._both(x, self.norm1, self.norm2)

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map; the first convolution is computed twice, because its mean and variance come first."""
        norm1, channels = walk.norm(self.norm1, x), self.conv1.out_channels
        norm2 = walk.norm(self.norm2, x.through(lambda part: self._first(part, norm1), channels, halo=1))
        return walk.hold(x.through(lambda part: self._both(part, norm1, norm2), channels, halo=2))

    def _first(self, x: Tensor, norm1: Local) -> Tensor:
        h: Tensor = self.conv1(activated(self.nonlinearity, norm1(x), self.norm1))
        return h

    def _both(self, x: Tensor, norm1: Local, norm2: Local) -> Tensor:
        h: Tensor = self.conv2(activated(self.nonlinearity, norm2(self._first(x, norm1)), self.norm2))
        return added(x if self.conv_shortcut is None else self.conv_shortcut(x), h, self.conv2)


@final
class Attention(nn.Module):
    """Single-head self-attention over all positions, with a residual connection.

    Args:
        channels: Channels in and out.
        groups: Groups of the normalisation.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = group_norm(channels, groups)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        tokens = _tokens(self.group_norm(x))
        return self._mix(x, tokens, self.to_k(tokens), self.to_v(tokens))

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map: exact, every position attends to all others."""
        norm = walk.norm(self.group_norm, x)

        def keys_and_values(part: Tensor) -> Tensor:
            tokens = _tokens(norm(part))
            return torch.cat([self.to_k(tokens), self.to_v(tokens)], dim=-1)

        return walk.gathered(
            x,
            keys_and_values,
            lambda part, all_: self._mix(part, _tokens(norm(part)), *all_.chunk(2, dim=-1)),
        )

    def _mix(self, x: Tensor, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let tokens [B, H * W, C] of `x` attend to keys and values [B, N, C]; never N numbers for each token."""
        # SDPA takes its way without the buffer of all weights only with an axis of heads, here of one.
        mixed = functional.scaled_dot_product_attention(
            self.to_q(tokens).unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1)
        )
        mixed = self.to_out[0](mixed.squeeze(1)).transpose(1, 2)
        # The tokens are laid out as channels_last is. Put first, they decide the layout of the sum, and with it
        # of everything after it: the faster one, even where the weights and the input are not.
        out: Tensor = mixed.view(x.shape) + x
        return out


@final
class Downsample(nn.Module):
    """Halve the resolution: a 3x3 convolution of stride 2 that looks right and down of its pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H / 2, W / 2]; H and W are even."""
        # One row and one column of zeros at the far ends only: `padding=1` would shift the grid by a pixel.
        out: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map."""
        return walk.hold(x.through(self, self.conv.out_channels, halo=2, down=2))


@final
class Upsample(nn.Module):
    """Double the resolution: every pixel becomes a 2x2 square, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 2 H, 2 W]."""
        if can_fold(self.conv):
            return upsampled_conv(x, self.conv.weight, self.conv.bias)
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map."""
        return walk.hold(x.through(self, self.conv.out_channels, halo=1, up=2))


@final
class DownBlock(nn.Module):
    """One level of the encoder.

    Residual blocks, each followed by attention where asked for, then half the resolution unless it is the last level.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int,
        groups: int,
        activation: str,
        *,
        attention: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(out_channels if i else in_channels, out_channels, groups, activation)
            for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels, groups) for _ in range(layers if attention else 0)
        )
        self.downsamplers = nn.ModuleList([Downsample(out_channels)] if downsample else [])

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, H or H / 2, W or W / 2]."""
        for layer in self._layers():
            x = layer(x)
        return x

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map."""
        return on_map(self._layers(), x, walk)

    def _layers(self) -> list[nn.Module]:
        return [*_in_order(self.resnets, self.attentions), *self.downsamplers]


@final
class UpBlock(nn.Module):
    """One level of the decoder.

    Residual blocks, each followed by attention where asked for, then twice the resolution unless it is the last level.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int,
        groups: int,
        activation: str,
        *,
        attention: bool,
        upsample: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(out_channels if i else in_channels, out_channels, groups, activation)
            for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels, groups) for _ in range(layers if attention else 0)
        )
        self.upsamplers = nn.ModuleList([Upsample(out_channels)] if upsample else [])

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, H or 2 H, W or 2 W]."""
        for layer in self._layers():
            x = layer(x)
        return x

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map."""
        return on_map(self._layers(), x, walk)

    def _layers(self) -> list[nn.Module]:
        return [*_in_order(self.resnets, self.attentions), *self.upsamplers]


@final
class MidBlock(nn.Module):
    """The coarsest level: a residual block, self-attention where asked for, a residual block."""

    def __init__(self, channels: int, groups: int, activation: str, *, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups, activation) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        for layer in self._layers():
            x = layer(x)
        return x

    def on_map(self, x: Map, walk: Walk) -> Map:
        """The same on a map."""
        return on_map(self._layers(), x, walk)

    def _layers(self) -> list[nn.Module]:
        return [self.resnets[0], *self.attentions, self.resnets[1]]


def on_map(layers: Iterable[nn.Module], x: Map, walk: Walk) -> Map:
    """Walk through layers that can be walked through, one after the other."""
    for layer in layers:
        assert isinstance(layer, Walked)
        x = layer.on_map(x, walk)
    return x


def _tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def _in_order(resnets: nn.ModuleList, attentions: nn.ModuleList) -> list[nn.Module]:
    """Each residual block followed by its attention, where there is any."""
    if not len(attentions):
        return [*resnets]
    return [layer for pair in zip(resnets, attentions, strict=True) for layer in pair]
