"""The residual, attention and resampling blocks that both networks are made of.

Module names follow diffusers, so that the keys of the state dict do. All tensors are [B, C, H, W]; channels_last
stays so, and comes out of attention whatever went in. `code` is the quantised latent where the norms are
spatial, else None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor, nn
from torch.nn import functional

from ldm_vq_vae.norms import Norms, normalise
from ldm_vq_vae.upsampling import can_fold, upsampled_conv

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


@final
class ResnetBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016) of two 3x3 convolutions.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; where they differ, a 1x1 convolution carries the skip connection.
        norms: The normalisation.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(self, in_channels: int, out_channels: int, norms: Norms, activation: str) -> None:
        super().__init__()
        self.norm1 = norms.layer(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norms.layer(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = ACTIVATIONS[activation]()
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, H, W]."""
        h = self.conv1(self.nonlinearity(normalise(self.norm1, x, code)))
        h = self.conv2(self.nonlinearity(normalise(self.norm2, h, code)))
        out: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h
        return out


@final
class Attention(nn.Module):
    """Single-head self-attention over all positions, with a residual connection.

    Args:
        channels: Channels in and out.
        norms: The normalisation.
    """

    def __init__(self, channels: int, norms: Norms) -> None:
        super().__init__()
        # The key names the kind of norm, unlike in the residual blocks.
        self.norm_name = "group_norm" if norms.code_channels is None else "spatial_norm"
        self.add_module(self.norm_name, norms.layer(channels))
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the same shape."""
        tokens = (
            normalise(self.get_submodule(self.norm_name), x, code).flatten(2).transpose(1, 2).unsqueeze(1)
        )  # [B, 1 head, H * W, C]
        mixed = functional.scaled_dot_product_attention(
            self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        )
        mixed = self.to_out[0](mixed).squeeze(1).transpose(1, 2)
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
        norms: Norms,
        activation: str,
        *,
        attention: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(out_channels if i else in_channels, out_channels, norms, activation)
            for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels, norms) for _ in range(layers if attention else 0)
        )
        self.downsamplers = nn.ModuleList([Downsample(out_channels)] if downsample else [])

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, H or H / 2, W or W / 2]."""
        for block in (*_in_order(self.resnets, self.attentions), *self.downsamplers):
            x = block(x)
        return x


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
        norms: Norms,
        activation: str,
        *,
        attention: bool,
        upsample: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(out_channels if i else in_channels, out_channels, norms, activation)
            for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels, norms) for _ in range(layers if attention else 0)
        )
        self.upsamplers = nn.ModuleList([Upsample(out_channels)] if upsample else [])

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, H or 2 H, W or 2 W]."""
        for layer in _in_order(self.resnets, self.attentions):
            x = layer(x, code)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


@final
class MidBlock(nn.Module):
    """The coarsest level: a residual block, self-attention where asked for, a residual block."""

    def __init__(self, channels: int, norms: Norms, activation: str, *, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, norms)] if attention else [])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, norms, activation) for _ in range(2))

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the same shape."""
        for block in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = block(x, code)
        return x


def _in_order(resnets: nn.ModuleList, attentions: nn.ModuleList) -> list[nn.Module]:
    """Each residual block followed by its attention, where there is any."""
    if not len(attentions):
        return [*resnets]
    return [layer for pair in zip(resnets, attentions, strict=True) for layer in pair]
