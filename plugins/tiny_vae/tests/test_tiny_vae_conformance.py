"""Both halves do what the interfaces promise."""

from __future__ import annotations

from ldm_tiny_vae import TinyDecoder, TinyEncoder, TinyVAEConfig

from ldm_registry.testing import ComponentSuite

CONFIG = TinyVAEConfig(
    encoder_block_out_channels=(8, 8, 8),
    decoder_block_out_channels=(12, 12, 12),
    num_encoder_blocks=(1, 2, 0),
    num_decoder_blocks=(2, 1, 1),
    scaling_factor=0.5,
    shift_factor=0.25,
)


class TestTinyEncoder(ComponentSuite):
    component = TinyEncoder
    config = CONFIG


class TestTinyDecoder(ComponentSuite):
    component = TinyDecoder
    config = CONFIG
