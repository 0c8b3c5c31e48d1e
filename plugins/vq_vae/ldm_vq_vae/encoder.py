"""The half that goes from pixels to latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Encoder, Generators
from ldm_registry.tiling import in_tiles, tiles_apply, working_bytes
from ldm_registry.trainable import EncoderOutput
from ldm_vq_vae.blocks import OLD_ATTENTION_NAMES
from ldm_vq_vae.config import VQVAEConfig
from ldm_vq_vae.networks import EncoderNetwork


@final
class VQEncoder(Encoder):
    """Pixels to the normalised latents of a vector-quantised autoencoder, before quantisation.

    The decoder quantises, so that a denoiser works on continuous latents (Rombach et al. 2022, section 3.1:
    the quantisation layer is absorbed by the decoder).

    Args:
        config: The same as the decoder's.
    """

    name = "vq-vae"
    Config = VQVAEConfig
    sibling_prefixes = ("decoder.", "post_quant_conv.", "quantize.")
    diffusers_class: ClassVar[str | None] = "VQModel"
    renamed_tensors = OLD_ATTENTION_NAMES
    tileable = True
    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.latent_space
        self.image_channels = config.in_channels
        self.normalisation = config.normalisation
        self.encoder = EncoderNetwork(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.code_channels, 1)

    def encode(
        self, image: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b k i j"]:
        """Encode images to normalised latents [B, code_channels, H / stride, W / stride].

        Args:
            image: Pixels in [-1, 1], [B, image_channels, H, W]; H and W are multiples of the stride.
            generator: Accepted and left alone: this encoder is deterministic.

        Raises:
            SpecError: The image has the wrong number of channels or a size that the stride does not divide.
        """
        self._check(image)
        if tiles_apply(self, image, (image.shape[2], image.shape[3]), self.tile_pixels):
            features = in_tiles(self, self.encoder.on_map, image, stride=1, tile_pixels=self.tile_pixels)
        else:
            features = self.encoder(image)
        return self.normalisation.normalise(self.quant_conv(features))

    def working_memory(self, batch: int, height: int, width: int) -> int:
        """As in `Encoder.working_memory`; always known."""
        return working_bytes(
            self.encoder.on_map,
            (batch, self.image_channels, height, width),
            stride=1,
            tile_pixels=self.tile_pixels,
            dtype=self.encoder.conv_in.weight.dtype,
        )

    def forward(self, image: Tensor, generator: Generators | None = None) -> EncoderOutput:
        """The training view of `encode`; the losses of quantisation are the decoder's."""
        return EncoderOutput(self.encode(image, generator), {})

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> VQVAEConfig:
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
            "latents_mean": raw_mean,
            "latents_std": raw_std,
        }
        return VQVAEConfig.model_validate(values)

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
                f"encoder 'vq-vae' cannot encode an image of shape {list(image.shape)}",
                problems,
                "resize or convert the images to fit the encoder",
            )
