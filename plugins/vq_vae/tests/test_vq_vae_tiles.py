"""Large images in tiles."""

from __future__ import annotations

import pytest
import torch
from ldm_vq_vae import VQDecoder, VQEncoder, VQVAEConfig
from ldm_vq_vae.blocks import Upsample
from torch import nn
from torch.nn import functional

KEYS = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "num_vq_embeddings": 32,
}
CONFIGS = {
    "plain": {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
    "attention at the finest level": {
        "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "mid_block_add_attention": False,
    },
}


def made(part: nn.Module) -> nn.Module:
    """In float64, with every parameter moved off its initial value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.double().eval().parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.2
            )
    return part


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_tiles_give_the_image_and_the_latent_of_the_whole(name):
    config = VQVAEConfig(**KEYS, **CONFIGS[name])
    encoder, decoder = made(VQEncoder(config)), made(VQDecoder(config))
    image, latent = normal(2, 3, 20, 14), normal(2, decoder.latent_space.channels, 10, 7)
    whole = encoder.encode(image), decoder.decode(latent)
    assert encoder.tileable
    assert decoder.tileable
    assert decoder.working_memory(1, 512, 512) > 0
    encoder.tile_pixels = decoder.tile_pixels = 6
    for ours, theirs in zip((encoder.encode(image), decoder.decode(latent)), whole, strict=True):
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-11


@torch.no_grad()
def test_a_decoder_with_spatial_norms_says_that_it_has_no_tiles():
    decoder = made(VQDecoder(VQVAEConfig(block_out_channels=(32,), norm_type="spatial")))
    assert not decoder.tileable
    assert decoder.working_memory(1, 64, 64) is None
    latent = normal(1, decoder.latent_space.channels, 4, 4)
    whole = decoder.decode(latent)
    decoder.tile_pixels = 2
    assert torch.equal(decoder.decode(latent), whole)


@torch.no_grad()
def test_folded_upsampling_follows_the_weights():
    layer, x = made(Upsample(4)), normal(1, 4, 3, 5)
    for factor in (1.0, -2.0):
        layer.conv.weight.mul_(factor)
        plain = functional.conv2d(
            functional.interpolate(x, scale_factor=2.0), layer.conv.weight, layer.conv.bias, padding=1
        )
        torch.testing.assert_close(layer(x), plain, rtol=1e-12, atol=1e-12)
