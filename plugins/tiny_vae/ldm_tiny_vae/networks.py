"""The two convolutional networks: pixels to latents, and latents to pixels.

Both are plain sequences of layers, without norms and without attention. The layout and the numbering of the layers are
those of diffusers 0.42, so that the keys of the state dict are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import torch
from torch import Tensor, nn

from ldm_registry.maps import Map
from ldm_registry.tiling import Walk
from ldm_tiny_vae.config import TinyVAEConfig

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}

FASTER = torch.channels_last
"""Memory format of all layers, decided by what goes in: on the CPU convolutions take a sixth less time so."""

UPSAMPLING_HALOS = {"bilinear": 1, "bicubic": 2}
"""How many pixels beyond its own an interpolation looks, where that is not 0."""

LATENT_BOUND = 3.0
"""Raw latents are squashed into (-3, 3) before decoding; no config key."""


@final
class ResidualBlock(nn.Module):
    """Three 3x3 convolutions with a residual connection, and a relu after the sum.

    Args:
        channels: Channels in and out.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTIVATIONS[activation](),
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTIVATIONS[activation](),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape, values >= 0."""
        return torch.relu_(self.conv(x) + x)


@final
class EncoderNetwork(nn.Module):
    """Pixels to raw latents."""

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_encoder_layers(config))

    def forward(self, image: Tensor) -> Tensor:
        """[B, in_channels, H, W] in [-1, 1] to [B, latent_channels, H / stride, W / stride]."""
        out: Tensor = self.layers(_unit(image).contiguous(memory_format=FASTER))
        return out

    def on_map(self, image: Map, walk: Walk) -> Map:
        """The same on a map."""
        return _on_map(self.layers, image.through(_unit, image.channels, halo=0), walk)


@final
class DecoderNetwork(nn.Module):
    """Raw latents to pixels."""

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_decoder_layers(config))

    def forward(self, raw: Tensor) -> Tensor:
        """[B, latent_channels, h, w] to [B, out_channels, h * stride, w * stride], nominally in [-1, 1]."""
        out: Tensor = self.layers(_squashed(raw).contiguous(memory_format=FASTER))
        return out * 2.0 - 1.0

    def on_map(self, raw: Map, walk: Walk) -> Map:
        """The same on a map."""
        out = _on_map(self.layers, raw.through(_squashed, raw.channels, halo=0), walk)
        return out.through(lambda part: part * 2.0 - 1.0, out.channels, halo=0)


def _unit(image: Tensor) -> Tensor:
    """The layers were trained on pixels in [0, 1]."""
    return (image + 1.0) / 2.0


def _squashed(raw: Tensor) -> Tensor:
    return torch.tanh(raw / LATENT_BOUND) * LATENT_BOUND


def _on_map(layers: nn.Sequential, x: Map, walk: Walk) -> Map:
    """Walk through the layers; the maps of all levels but the finest are held, where they fit."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            down = layer.stride[0]
            x = x.through(layer, layer.out_channels, halo=down, down=down)
            x = walk.hold(x) if down > 1 else x
        elif isinstance(layer, nn.Upsample):
            assert isinstance(layer.scale_factor, float)
            held, up = walk.hold(x), int(layer.scale_factor)
            x = held.through(layer, held.channels, halo=UPSAMPLING_HALOS.get(layer.mode, 0), up=up)
        else:
            x = x.through(layer, x.channels, halo=3 if isinstance(layer, ResidualBlock) else 0)
    return x


def _encoder_layers(config: TinyVAEConfig) -> Iterator[nn.Module]:
    width = config.encoder_block_out_channels[0]
    for level, blocks in enumerate(config.num_encoder_blocks):
        if level == 0:
            yield nn.Conv2d(config.in_channels, width, 3, padding=1)
        else:
            yield nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False)
        for _ in range(blocks):
            yield ResidualBlock(width, config.act_fn)
    yield nn.Conv2d(width, config.latent_channels, 3, padding=1)


def _decoder_layers(config: TinyVAEConfig) -> Iterator[nn.Module]:
    width = config.decoder_block_out_channels[0]
    yield nn.Conv2d(config.latent_channels, width, 3, padding=1)
    yield ACTIVATIONS[config.act_fn]()
    last = len(config.num_decoder_blocks) - 1
    for level, blocks in enumerate(config.num_decoder_blocks):
        for _ in range(blocks):
            yield ResidualBlock(width, config.act_fn)
        if level < last:
            yield nn.Upsample(scale_factor=config.upsampling_scaling_factor, mode=config.upsample_fn)
            yield nn.Conv2d(width, width, 3, padding=1, bias=False)
    yield nn.Conv2d(width, config.out_channels, 3, padding=1)
