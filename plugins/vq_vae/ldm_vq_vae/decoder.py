"""The half that goes from latents to pixels: quantise, then decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Decoder
from ldm_registry.tiling import in_tiles, tiles_apply, working_bytes
from ldm_registry.trainable import DecoderOutput
from ldm_vq_vae.assignment import perplexity
from ldm_vq_vae.blocks import OLD_ATTENTION_NAMES
from ldm_vq_vae.codebook import Codebook
from ldm_vq_vae.config import VQVAEConfig
from ldm_vq_vae.networks import DecoderNetwork


@final
class VQDecoder(Decoder):
    """Normalised latents of a vector-quantised autoencoder to pixels (van den Oord et al. 2017).

    Undoes the normalisation, replaces every vector by its nearest code, and decodes.

    Args:
        config: The same as the encoder's.
    """

    name = "vq-vae"
    Config = VQVAEConfig
    sibling_prefixes = ("encoder.", "quant_conv.")
    diffusers_class: ClassVar[str | None] = "VQModel"
    renamed_tensors = OLD_ATTENTION_NAMES
    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.latent_space
        self.image_channels = config.out_channels
        self.normalisation = config.normalisation
        # A spatial norm needs the code of each tile beside the map.
        self.tileable = config.norm_type == "group"
        decay = config.ema_decay if config.codebook == "ema" else None
        self.quantize = Codebook(config.num_vq_embeddings, config.code_channels, decay)
        self.post_quant_conv = nn.Conv2d(config.code_channels, config.latent_channels, 1)
        self.decoder = DecoderNetwork(config)

    def decode(self, latent: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """Decode normalised latents [B, code_channels, h, w] to images [B, C, h * stride, w * stride].

        Raises:
            SpecError: The latent has the wrong number of channels.
        """
        raw = self.raw(latent)
        return self._pixels(self.quantize(raw).replaced.to(raw.dtype))

    def working_memory(self, batch: int, height: int, width: int) -> int | None:
        """As in `Decoder.working_memory`; None with spatial norms."""
        if not self.tileable:
            return None
        stride = self.latent_space.stride
        return working_bytes(
            self.decoder.on_map,
            (batch, self.config.latent_channels, height // stride, width // stride),
            stride=stride,
            tile_pixels=self.tile_pixels,
            dtype=self.decoder.conv_in.weight.dtype,
        )

    def decode_codes(self, codes: Int[Tensor, "b i j"]) -> Float[Tensor, "b c h w"]:
        """Decode indices into the codebook, int64 [B, h, w] in 0 ... num_vq_embeddings - 1."""
        return self._pixels(self.quantize.lookup(codes))

    def raw(self, latent: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        """Undo the normalisation of latents [B, code_channels, h, w]; the codes live in these units.

        Raises:
            SpecError: The latent has the wrong number of channels.
        """
        if latent.ndim != 4 or latent.shape[1] != self.latent_space.channels:
            raise SpecError(
                f"decoder 'vq-vae' cannot decode a latent of shape {list(latent.shape)}",
                [f"expected [batch, {self.latent_space.channels}, height, width]"],
                "use the encoder and the denoiser that this decoder was trained with",
            )
        return self.normalisation.denormalise(latent)

    def forward(self, latent: Tensor) -> DecoderOutput:
        """The training view of `decode`, with the straight-through gradient.

        The gradient of the quantised latent is handed on to the latent as it is (van den Oord et al. 2017,
        section 3.2). In training mode the codebook's running means and dead codes are attended to.

        Returns:
            The image; the losses `commitment`, mean of `(z - sg[e])**2` over all latent values in raw units,
            and, where the codebook learns by gradient, `codebook`, mean of `(sg[z] - e)**2` (Eq. 3 there,
            unweighted); the statistics `perplexity` and `dead_codes` (codes that nothing in this batch chose).
        """
        raw = self.raw(latent)
        quantised = self.quantize(raw)
        code = quantised.replaced
        z = raw.to(code.dtype)
        losses = {"commitment": functional.mse_loss(z, code.detach())}
        if self.quantize.ema_decay is None:
            losses["codebook"] = functional.mse_loss(code, z.detach())
        straight_through = (z + (code - z).detach()).to(raw.dtype)
        counts = self.quantize.learn(quantised)
        figures = torch.stack([perplexity(counts), (counts == 0).sum().to(counts.dtype)])
        return DecoderOutput(
            self._pixels(straight_through),
            losses,
            dict(zip(("perplexity", "dead_codes"), figures.tolist(), strict=True)),
        )

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed training needs beside the weights: copies of the codebook's running statistics.

        Empty before the first step.
        """
        return self.quantize.upkeep.state()

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `training_state` gave, so that training goes on to the bit.

        Raises:
            CheckpointError: A name is unknown or a shape does not fit.
        """
        self.quantize.upkeep.load(state, self.config.code_channels)

    def _pixels(self, code: Tensor) -> Tensor:
        features: Tensor = self.post_quant_conv(code)
        stride = self.latent_space.stride
        pixels = (features.shape[2] * stride, features.shape[3] * stride)
        if self.tileable and tiles_apply(self, features, pixels, self.tile_pixels):
            return in_tiles(self, self.decoder.on_map, features, stride=stride, tile_pixels=self.tile_pixels)
        image: Tensor = self.decoder(features, code if self.config.norm_type == "spatial" else None)
        return image
