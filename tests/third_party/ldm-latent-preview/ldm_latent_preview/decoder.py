"""The decoder `latent-preview`: what is in a latent, at the price of one matrix product."""

from __future__ import annotations

from typing import final

import torch
from ldm_registry.interfaces import ComponentConfig, Decoder, LatentSpace
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

Colour = tuple[float, float, float]


class DecoderConfig(ComponentConfig):
    """The matrix; the default is the least-squares fit to the colours of `emoji-kl-vae`."""

    weights: tuple[Colour, ...] = Field(
        default=(
            (0.0020, -0.0429, 0.1286),
            (0.0838, 0.0748, 0.1960),
            (0.1874, -0.0378, -0.1104),
            (0.2827, 0.4052, 0.2768),
        ),
        min_length=1,
        description="For each latent channel what it adds to red, green and blue, in [-1, 1].",
    )
    bias: Colour = Field(
        default=(0.6057, 0.5156, 0.4423), description="Red, green and blue of a latent of zero."
    )
    stride: int = Field(default=8, ge=1, description="Pixels along one side of a latent cell.")
    smooth: bool = Field(default=True, description="Whether colours blend between cells.")

    @model_validator(mode="after")
    def _one_cell_cannot_blend(self) -> DecoderConfig:
        if self.smooth and self.stride == 1:
            raise ValueError("smooth: with stride 1 there is nothing between cells; say `smooth: false`")
        return self


@final
class LatentPreviewDecoder(Decoder):
    """A linear map from latents to colours, enlarged to the size of the image."""

    name = "latent-preview"
    Config = DecoderConfig
    config: DecoderConfig
    weights: Tensor
    bias: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image_channels = 3
        self.latent_space = LatentSpace(len(config.weights), config.stride)
        weights = torch.tensor(config.weights, device="cpu").t().reshape(3, -1, 1, 1)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("bias", torch.tensor(config.bias, device="cpu"), persistent=False)

    def decode(self, latent: Tensor) -> Tensor:
        """Images [B, 3, stride * H, stride * W] of latents [B, C, H, W], nominally in [-1, 1]."""
        colours = F.conv2d(latent, self.weights, self.bias)
        mode = "bilinear" if self.config.smooth else "nearest"
        return F.interpolate(colours, scale_factor=self.config.stride, mode=mode)
