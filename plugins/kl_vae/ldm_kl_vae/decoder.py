"""The half that goes from latents to pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_kl_vae.blocks import OLD_ATTENTION_NAMES
from ldm_kl_vae.config import KLVAEConfig
from ldm_kl_vae.families import FAMILIES
from ldm_kl_vae.folding import folded_config, folded_post_quant_conv
from ldm_kl_vae.networks import DecoderNetwork
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Decoder
from ldm_registry.tiling import in_tiles, tiles_apply, working_bytes
from ldm_registry.trainable import DecoderOutput


@final
class KLDecoder(Decoder):
    """Normalised latents of a KL-regularised autoencoder to pixels (Rombach et al. 2022, section 3.1).

    Attributes:
        families: Config keys of the normalisation by family, for codecs whose files do not state theirs.

    Args:
        config: The same as the encoder's.
    """

    name = "kl-vae"
    Config = KLVAEConfig
    sibling_prefixes = ("encoder.", "quant_conv.")
    diffusers_class: ClassVar[str | None] = "AutoencoderKL"
    renamed_tensors = OLD_ATTENTION_NAMES
    tileable = True
    families: ClassVar[Mapping[str, Mapping[str, Any]]] = FAMILIES
    config: KLVAEConfig

    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.latent_space
        self.image_channels = config.out_channels
        self.normalisation = config.normalisation
        self.decoder = DecoderNetwork(config)
        channels = config.latent_channels
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else None

    def decode(self, latent: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """Decode normalised latents [B, latent_channels, h, w] to images [B, C, h * stride, w * stride].

        Raises:
            SpecError: The latent has the wrong number of channels.
        """
        if latent.ndim != 4 or latent.shape[1] != self.latent_space.channels:
            raise SpecError(
                f"decoder 'kl-vae' cannot decode a latent of shape {list(latent.shape)}",
                [f"expected [batch, {self.latent_space.channels}, height, width]"],
                "use the encoder and the denoiser that this decoder was trained with",
            )
        raw = self.normalisation.denormalise(latent)
        if self.post_quant_conv is not None:
            raw = self.post_quant_conv(raw)
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
            dtype=self.decoder.conv_in.weight.dtype,
        )

    def folded(self) -> KLDecoder:
        """The same decoder with its normalisation inside `post_quant_conv`; its own weights are shared."""
        with torch.device("meta"):
            twin = KLDecoder(folded_config(self.config))
        twin.decoder = self.decoder
        dtype = next(self.parameters()).dtype
        twin.post_quant_conv = folded_post_quant_conv(self.post_quant_conv, self.config, dtype)
        return twin

    def forward(self, latent: Tensor) -> DecoderOutput:
        """The training view of `decode`; this decoder adds no losses of its own."""
        return DecoderOutput(self.decode(latent), {}, {})
