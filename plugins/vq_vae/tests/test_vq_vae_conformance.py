"""Both halves do what the interfaces promise."""

from __future__ import annotations

from ldm_vq_vae import VQDecoder, VQEncoder, VQVAEConfig

from ldm_registry.testing import ComponentSuite

CONFIG = VQVAEConfig(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(8, 8, 16),
    norm_num_groups=4,
    num_vq_embeddings=16,
    vq_embed_dim=4,
    latents_mean=(0.1, -0.2, 0.3, 0.0),
    latents_std=(0.5, 1.0, 2.0, 0.9),
)


class TestVQEncoder(ComponentSuite):
    component = VQEncoder
    config = CONFIG


class TestVQDecoder(ComponentSuite):
    component = VQDecoder
    config = CONFIG
