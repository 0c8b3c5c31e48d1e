"""The half that goes from pixels to latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Encoder, Generators
from ldm_registry.tiling import in_tiles, tiles_apply, working_bytes
from ldm_tiny_vae.config import TinyVAEConfig, without_derived_keys
from ldm_tiny_vae.networks import EncoderNetwork


@final
class TinyEncoder(Encoder):
    """Pixels to the normalised latents of a tiny autoencoder.

    It is distilled to give what a large KL autoencoder gives after normalisation, so its own is usually none.

    Args:
        config: The same as the decoder's.
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
    sibling_prefixes = ("decoder.",)
    diffusers_class: ClassVar[str | None] = "AutoencoderTiny"
    config: TinyVAEConfig

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.encoder_space
        self.image_channels = config.in_channels
        self.encoder = EncoderNetwork(config)

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out `block_out_channels`, which diffusers writes as a copy of `decoder_block_out_channels`.

        Raises:
            SpecError: It is no copy.
        """
        return without_derived_keys(values)

    def encode(
        self, image: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b k i j"]:
        """Encode images to normalised latents [B, latent_channels, H / stride, W / stride].

        Args:
            image: Pixels in [-1, 1], [B, image_channels, H, W]; H and W are multiples of the stride.
            generator: Accepted and left alone: this encoder is deterministic.

        Raises:
            SpecError: The image has the wrong number of channels or a size that the stride does not divide.
        """
        self._check(image)
        raw: Tensor
        if tiles_apply(self, image, (image.shape[2], image.shape[3]), self.tile_pixels):
            raw = in_tiles(self, self.encoder.on_map, image, stride=1, tile_pixels=self.tile_pixels)
        else:
            raw = self.encoder(image)
        return (raw - self.config.shift_factor) * self.config.scaling_factor

    def working_memory(self, batch: int, height: int, width: int) -> int:
        """As in `Encoder.working_memory`; always known."""
        return working_bytes(
            self.encoder.on_map,
            (batch, self.image_channels, height, width),
            stride=1,
            tile_pixels=self.tile_pixels,
            dtype=next(self.parameters()).dtype,
        )

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
                f"encoder 'tiny-vae' cannot encode an image of shape {list(image.shape)}",
                problems,
                "resize or convert the images to fit the encoder",
            )
