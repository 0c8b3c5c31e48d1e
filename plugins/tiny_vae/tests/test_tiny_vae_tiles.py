"""Large images in tiles."""

from __future__ import annotations

import pytest
import torch
from ldm_tiny_vae import TinyDecoder, TinyEncoder, TinyVAEConfig
from torch import nn


def made(part: nn.Module) -> nn.Module:
    """In float64, with weights so large that a latent matters to the pixels far around it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.double().eval().parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return part


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("interpolation", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_tiles_give_the_image_and_the_latent_of_the_whole(interpolation, factor):
    config = TinyVAEConfig(
        encoder_block_out_channels=(6, 6),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 0, 1),
        upsample_fn=interpolation,
        upsampling_scaling_factor=factor,
    )
    encoder, decoder = made(TinyEncoder(config)), made(TinyDecoder(config))
    image, latent = normal(2, 3, 20, 14), normal(2, 4, 8, 5)
    whole = encoder.encode(image), decoder.decode(latent)
    alone = decoder.decode(latent[:, :, :4])[:, :, :8]
    assert float((alone - whole[1][:, :, :8]).abs().max() / whole[1].abs().max()) > 1e-6
    for tile in (9, 17):
        encoder.tile_pixels = decoder.tile_pixels = tile
        for ours, theirs in zip((encoder.encode(image), decoder.decode(latent)), whole, strict=True):
            assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-12
    assert decoder.working_memory(1, 512, 512) > encoder.working_memory(1, 64, 64) > 0
