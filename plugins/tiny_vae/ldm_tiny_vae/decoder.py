"""The half that goes from latents to pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Decoder
from ldm_registry.tiling import in_tiles, tiles_apply, working_bytes
from ldm_tiny_vae.config import TinyVAEConfig, without_derived_keys
from ldm_tiny_vae.networks import DecoderNetwork


@final
class TinyDecoder(Decoder):
    """Normalised latents of a tiny autoencoder to pixels.

    Args:
        config: The same as the encoder's.
    """

    name = "tiny-vae"
    Config = TinyVAEConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (12, 12, 12),
        "num_encoder_blocks": (1, 2, 0),
        "num_decoder_blocks": (2, 1, 1),
    }
    tileable = True
    sibling_prefixes = ("encoder.",)
    diffusers_class: ClassVar[str | None] = "AutoencoderTiny"
    config: TinyVAEConfig

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.decoder_space
        self.image_channels = config.out_channels
        self.decoder = DecoderNetwork(config)

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out `block_out_channels`, which diffusers writes as a copy of `decoder_block_out_channels`.

        Raises:
            SpecError: It is no copy.
        """
        return without_derived_keys(values)

    def decode(self, latent: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """Decode normalised latents [B, latent_channels, h, w] to images [B, C, h * stride, w * stride].

        Raises:
            SpecError: The latent has the wrong number of channels.
        """
        if latent.ndim != 4 or latent.shape[1] != self.latent_space.channels:
            raise SpecError(
                f"decoder 'tiny-vae' cannot decode a latent of shape {list(latent.shape)}",
                [f"expected [batch, {self.latent_space.channels}, height, width]"],
                "use the encoder and the denoiser that this decoder was trained with",
            )
        raw = latent / self.config.scaling_factor + self.config.shift_factor
        stride = self.latent_space.stride
        if tiles_apply(self, raw, (raw.shape[2] * stride, raw.shape[3] * stride), self.tile_pixels):
            return in_tiles(self, self.decoder.on_map, raw, stride=stride, tile_pixels=self.tile_pixels)
        image: Tensor = self.decoder(raw)
        return image

    def working_memory(self, batch: int, height: int, width: int) -> int:
        """As in `Decoder.working_memory`; always known."""
        stride = self.latent_space.stride
        return working_bytes(
            self.decoder.on_map,
            (batch, self.latent_space.channels, height // stride, width // stride),
            stride=stride,
            tile_pixels=self.tile_pixels,
            dtype=next(self.parameters()).dtype,
        )
