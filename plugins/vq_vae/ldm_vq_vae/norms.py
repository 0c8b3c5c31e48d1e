"""The two normalisations: plain groups, and groups modulated by the quantised latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_vq_vae.config import SPATIAL_NORM_GROUPS
from ldm_vq_vae.group_norm import GroupNorm

# Not a config key of any published autoencoder of this family: fixed in the architecture.
NORM_EPS = 1e-6


@final
class SpatialNorm(nn.Module):
    """Group normalisation whose scale and shift at each place come from the code there.

    `norm(x) * y(code) + b(code)` with 1x1 convolutions y and b (Zheng et al. 2022, MoVQ).

    Args:
        channels: Channels of x.
        code_channels: Channels of the code.
    """

    def __init__(self, channels: int, code_channels: int) -> None:
        super().__init__()
        self.norm_layer = GroupNorm(SPATIAL_NORM_GROUPS, channels, eps=NORM_EPS)
        self.conv_y = nn.Conv2d(code_channels, channels, 1)
        self.conv_b = nn.Conv2d(code_channels, channels, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Normalise [B, C, H, W] by a code [B, K, h, w] of any lower resolution."""
        size = x.shape[2:]
        # A 1x1 convolution commutes with nearest-neighbour upsampling, and is far cheaper before it.
        scale = functional.interpolate(self.conv_y(code), size=size, mode="nearest")
        shift = functional.interpolate(self.conv_b(code), size=size, mode="nearest")
        return torch.addcmul(shift, self.norm_layer(x), scale)


@final
@dataclass(frozen=True, slots=True)
class Norms:
    """Which normalisation a network uses.

    Attributes:
        groups: Groups of plain group normalisation.
        code_channels: Channels of the code that modulates; None for plain group normalisation.
    """

    groups: int
    code_channels: int | None = None

    def layer(self, channels: int) -> nn.Module:
        """A normalisation of so many channels."""
        if self.code_channels is None:
            return GroupNorm(self.groups, channels, eps=NORM_EPS)
        return SpatialNorm(channels, self.code_channels)


def normalise(norm: nn.Module, x: Tensor, code: Tensor | None) -> Tensor:
    """Apply either normalisation to [B, C, H, W]; `code` is None for the plain one."""
    out: Tensor = norm(x) if code is None else norm(x, code)
    return out
