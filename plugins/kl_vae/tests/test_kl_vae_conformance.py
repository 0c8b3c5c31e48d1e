"""Both halves do what the interfaces promise."""

from __future__ import annotations

from ldm_kl_vae import KLDecoder, KLEncoder, KLVAEConfig

from ldm_registry.testing import ComponentSuite

CONFIG = KLVAEConfig(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(8, 8, 16),
    norm_num_groups=4,
    latents_mean=(0.1, -0.2, 0.3, 0.0),
    latents_std=(0.5, 1.0, 2.0, 0.9),
)


class TestKLEncoder(ComponentSuite):
    component = KLEncoder
    config = CONFIG


class TestKLDecoder(ComponentSuite):
    component = KLDecoder
    config = CONFIG
