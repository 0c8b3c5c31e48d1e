"""The half that goes from pixels to latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_kl_vae.blocks import OLD_ATTENTION_NAMES
from ldm_kl_vae.config import KLVAEConfig
from ldm_kl_vae.families import FAMILIES
from ldm_kl_vae.folding import folded_config, folded_quant_conv
from ldm_kl_vae.networks import EncoderNetwork
from ldm_kl_vae.posterior import DiagonalGaussian
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Encoder, Generators
from ldm_registry.tiling import in_tiles, tiles_apply, working_bytes
from ldm_registry.trainable import EncoderOutput


@final
class KLEncoder(Encoder):
    """Pixels to the normalised latents of a KL-regularised autoencoder (Rombach et al. 2022, section 3.1).

    Attributes:
        families: Config keys of the normalisation by family, for codecs whose files do not state theirs.

    Args:
        config: The same as the decoder's.
    """

    name = "kl-vae"
    Config = KLVAEConfig
    sibling_prefixes = ("decoder.", "post_quant_conv.")
    diffusers_class: ClassVar[str | None] = "AutoencoderKL"
    renamed_tensors = OLD_ATTENTION_NAMES
    tileable = True
    families: ClassVar[Mapping[str, Mapping[str, Any]]] = FAMILIES
    config: KLVAEConfig

    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.latent_space
        self.image_channels = config.in_channels
        self.normalisation = config.normalisation
        self.encoder = EncoderNetwork(config)
        moments = 2 * config.latent_channels
        self.quant_conv = nn.Conv2d(moments, moments, 1) if config.use_quant_conv else None

    def posterior(self, image: Float[Tensor, "b c h w"]) -> DiagonalGaussian:
        """The distribution of the raw latents, before normalisation.

        Args:
            image: Pixels in [-1, 1], [B, image_channels, H, W]; H and W are multiples of the stride.

        Raises:
            SpecError: The image has the wrong number of channels or a size that the stride does not divide.
        """
        self._check(image)
        if tiles_apply(self, image, (image.shape[2], image.shape[3]), self.tile_pixels):
            moments = in_tiles(self, self.encoder.on_map, image, stride=1, tile_pixels=self.tile_pixels)
        else:
            moments = self.encoder(image)
        return DiagonalGaussian.of(moments if self.quant_conv is None else self.quant_conv(moments))

    def encode(
        self, image: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b k i j"]:
        """Encode images to normalised latents [B, latent_channels, H / stride, W / stride].

        Args:
            image: Pixels in [-1, 1], [B, image_channels, H, W]; H and W are multiples of the stride.
            generator: Samples the posterior when given; without one the mode is taken.

        Raises:
            SpecError: The image has the wrong number of channels or a size that the stride does not divide.
        """
        posterior = self.posterior(image)
        return self.normalisation.normalise(
            posterior.mean if generator is None else posterior.sample(generator)
        )

    def forward(self, image: Tensor, generator: Generators | None = None) -> EncoderOutput:
        """The training view: sample the posterior with gradients.

        Args:
            image: As for `encode`.
            generator: Source of the noise; PyTorch's own when missing.

        Returns:
            The normalised sample, and the loss `kl_nats`: the divergence of the raw posterior from N(0, I),
            averaged over all latent values.
        """
        posterior = self.posterior(image)
        latent = self.normalisation.normalise(posterior.sample(generator))
        return EncoderOutput(latent, {"kl_nats": posterior.kl_nats()})

    def working_memory(self, batch: int, height: int, width: int) -> int:
        """As in `Encoder.working_memory`; always known."""
        return working_bytes(
            self.encoder.on_map,
            (batch, self.image_channels, height, width),
            stride=1,
            tile_pixels=self.tile_pixels,
            dtype=self.encoder.conv_in.weight.dtype,
        )

    def folded(self) -> KLEncoder:
        """The same encoder with its normalisation inside `quant_conv`; its own weights are shared."""
        with torch.device("meta"):
            twin = KLEncoder(folded_config(self.config))
        twin.encoder = self.encoder
        dtype = next(self.parameters()).dtype
        twin.quant_conv = folded_quant_conv(self.quant_conv, self.config, dtype)
        return twin

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> KLVAEConfig:
        """The config under which latents of this measured mean and std come out normalised.

        Args:
            mean: Mean of what `encode` gives now, one for each latent channel.
            std: Its standard deviation, likewise, > 0.

        Raises:
            SpecError: There are not as many numbers as channels, or a standard deviation is not positive.
        """
        raw_mean, raw_std = self.normalisation.then(mean, std)
        values = self.config.model_dump() | {
            "scaling_factor": 1.0,
            "shift_factor": None,
            "latents_mean": raw_mean,
            "latents_std": raw_std,
            "latent_std": 1.0,
        }
        return KLVAEConfig.model_validate(values)

    def _check(self, image: Tensor) -> None:
        stride = self.latent_space.stride
        problems = []
        if image.ndim != 4:
            problems.append(f"dimensions: got {image.ndim}, expected 4 (batch, channels, height, width)")
        else:
            if image.shape[1] != self.image_channels:
                problems.append(f"channels: got {image.shape[1]}, expected {self.image_channels}")
            if image.shape[2] % stride or image.shape[3] % stride or not image.shape[2] * image.shape[3]:
                height, width = image.shape[2:]
                problems.append(
                    f"height x width: got {height} x {width}, expected positive multiples of {stride}"
                )
        if problems:
            raise SpecError(
                f"encoder 'kl-vae' cannot encode an image of shape {list(image.shape)}",
                problems,
                "resize or convert the images to fit the encoder",
            )
