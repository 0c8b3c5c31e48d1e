"""The codec `block-dct`: the lowest frequencies of each block of pixels, as JPEG has them."""

from __future__ import annotations

import math
from typing import final

import torch
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig, Decoder, Encoder, Generators, LatentSpace
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F


class CodecConfig(ComponentConfig):
    """How much of each block is kept, and what the coefficients are normalised with."""

    stride: int = Field(default=8, ge=1, description="Side of a block, pixels.")
    stds: tuple[float, ...] = Field(
        default=(4.1, 1.48, 1.54, 0.78),
        min_length=1,
        description="Of each coefficient that is kept, in zigzag order, for pixels in [-1, 1]; "
        "as many as there are latent channels for each colour.",
    )
    mean: float = Field(
        default=4.29, description="Of the first coefficient, which is stride * the mean pixel."
    )

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> CodecConfig:
        if len(self.stds) > self.stride**2:
            raise ValueError(
                f"stds: got {len(self.stds)}; a block of side {self.stride} has {self.stride**2}"
            )
        return self

    @property
    def latent_space(self) -> LatentSpace:
        """Where the latents live."""
        return LatentSpace(3 * len(self.stds), self.stride)


@final
class BlockDctEncoder(Encoder):
    """Pixels to normalised coefficients of the discrete cosine transform (Ahmed et al. 1974)."""

    name = "block-dct"
    Config = CodecConfig
    config: CodecConfig
    basis: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.image_channels = 3
        self.latent_space = config.latent_space
        register_tables(self, config)

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        """Latents [B, 3 * K, H / stride, W / stride] of images [B, 3, H, W]; nothing is random here.

        Raises:
            SpecError: A side is no multiple of the stride.
        """
        stride = self.config.stride
        if image.shape[2] % stride or image.shape[3] % stride:
            raise SpecError(
                f"encoder {self.name!r} got an image of {list(image.shape[2:])}; "
                f"expected sides that are multiples of {stride}"
            )
        return (F.conv2d(image, self.basis, stride=stride, groups=3) - self.mean) / self.std


@final
class BlockDctDecoder(Decoder):
    """Normalised coefficients to pixels; frequencies that were not kept are zero."""

    name = "block-dct"
    Config = CodecConfig
    config: CodecConfig
    basis: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.image_channels = 3
        self.latent_space = config.latent_space
        register_tables(self, config)

    def decode(self, latent: Tensor) -> Tensor:
        """Images [B, 3, stride * H, stride * W] of latents [B, 3 * K, H, W]."""
        coefficients = latent * self.std + self.mean
        # The basis is orthonormal, so its inverse is its transpose.
        return F.conv_transpose2d(coefficients, self.basis, stride=self.config.stride, groups=3)


def register_tables(codec: Encoder | Decoder, config: CodecConfig) -> None:
    """Give a codec its constants: not saved, and on the CPU even where weights have no memory yet."""
    mean = torch.tensor((config.mean, *[0.0] * (len(config.stds) - 1)), device="cpu").view(-1, 1, 1)
    std = torch.tensor(config.stds, device="cpu").view(-1, 1, 1)
    basis = cosines(config.stride, len(config.stds))[:, None]
    codec.register_buffer("basis", basis.repeat(3, 1, 1, 1), persistent=False)
    codec.register_buffer("mean", mean.repeat(3, 1, 1), persistent=False)
    codec.register_buffer("std", std.repeat(3, 1, 1), persistent=False)


def cosines(side: int, count: int) -> Tensor:
    """The first basis functions in zigzag order, [count, side, side], float32 and orthonormal."""
    place = torch.arange(side, dtype=torch.float64, device="cpu")
    waves = torch.cos(math.pi / side * (place + 0.5) * place[:, None]) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    order = sorted(
        ((row, column) for row in range(side) for column in range(side)),
        key=lambda pair: (sum(pair), pair[sum(pair) % 2]),
    )
    return torch.stack([waves[row, :, None] * waves[column] for row, column in order[:count]]).float()
