"""The two convolutional networks: pixels to posterior moments, and latents to pixels.

Rombach et al. 2022, appendix G ("Details on Autoencoder Models"); the layout is that of diffusers 0.42.
"""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from ldm_kl_vae.blocks import DownBlock, MidBlock, UpBlock, group_norm, on_map
from ldm_kl_vae.config import ATTENTION_DOWN_BLOCK, ATTENTION_UP_BLOCK, KLVAEConfig
from ldm_kl_vae.in_place import activated
from ldm_registry.maps import Map
from ldm_registry.tiling import Walk

FASTER = torch.channels_last
"""Memory format of all maps, decided by what goes in: convolutions on the CPU take up to a sixth less time so."""


@final
class EncoderNetwork(nn.Module):
    """Pixels to the moments of the posterior."""

    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        widths, groups, activation = config.block_out_channels, config.norm_num_groups, config.act_fn
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(
                before,
                width,
                config.layers_per_block,
                groups,
                activation,
                attention=config.down_block_types[i] == ATTENTION_DOWN_BLOCK,
                downsample=i < len(widths) - 1,
            )
            for i, (before, width) in enumerate(pairwise((widths[0], *widths)))
        )
        self.mid_block = MidBlock(widths[-1], groups, activation, attention=config.mid_block_add_attention)
        self.conv_norm_out = group_norm(widths[-1], groups)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, 2 * latent_channels, H / stride, W / stride]."""
        h = self.conv_in(image.contiguous(memory_format=FASTER))
        for block in (*self.down_blocks, self.mid_block):
            h = block(h)
        h = activated(self.conv_act, self.conv_norm_out(h), self.conv_norm_out)
        out: Tensor = self.conv_out(h)
        return out

    def on_map(self, image: Map, walk: Walk) -> Map:
        """The same on a map."""
        h = walk.hold(image.through(self.conv_in, self.conv_in.out_channels, halo=1))
        h = on_map((*self.down_blocks, self.mid_block), h, walk)
        norm = walk.norm(self.conv_norm_out, h)
        return h.through(
            lambda part: self.conv_out(activated(self.conv_act, norm(part), self.conv_norm_out)),
            self.conv_out.out_channels,
            halo=1,
        )


@final
class DecoderNetwork(nn.Module):
    """Raw latents to pixels."""

    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        widths, groups, activation = config.block_out_channels[::-1], config.norm_num_groups, config.act_fn
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, activation, attention=config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(
                before,
                width,
                config.layers_per_block + 1,
                groups,
                activation,
                attention=config.up_block_types[i] == ATTENTION_UP_BLOCK,
                upsample=i < len(widths) - 1,
            )
            for i, (before, width) in enumerate(pairwise((widths[0], *widths)))
        )
        self.conv_norm_out = group_norm(widths[-1], groups)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, raw: Tensor) -> Tensor:
        """[B, latent_channels, h, w] to [B, out_channels, h * stride, w * stride]."""
        h = self.conv_in(raw.contiguous(memory_format=FASTER))
        for block in (self.mid_block, *self.up_blocks):
            h = block(h)
        h = activated(self.conv_act, self.conv_norm_out(h), self.conv_norm_out)
        out: Tensor = self.conv_out(h)
        return out

    def on_map(self, raw: Map, walk: Walk) -> Map:
        """The same on a map."""
        h = walk.hold(raw.through(self.conv_in, self.conv_in.out_channels, halo=1))
        h = on_map((self.mid_block, *self.up_blocks), h, walk)
        norm = walk.norm(self.conv_norm_out, h)
        return h.through(
            lambda part: self.conv_out(activated(self.conv_act, norm(part), self.conv_norm_out)),
            self.conv_out.out_channels,
            halo=1,
        )
