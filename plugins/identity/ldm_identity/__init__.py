"""Pixel space: an encoder and a decoder that hand their input on bit for bit."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Decoder,
    Encoder,
    Generators,
    LatentSpace,
)

__all__ = ["IdentityConfig", "IdentityDecoder", "IdentityEncoder", "register_components"]


@final
class IdentityConfig(ComponentConfig):
    """Shape of the images."""

    channels: int = Field(3, ge=1, description="channels of the image, and so of the latent, >= 1")

    @property
    def latent_space(self) -> LatentSpace:
        """The pixels themselves."""
        return LatentSpace(self.channels, 1)


@final
class IdentityEncoder(Encoder):
    """Pixels as latents. No normalisation: pixels in [-1, 1] are what pixel-space denoisers are trained on.

    Args:
        config: The same as the decoder's.
    """

    name = "identity"
    Config = IdentityConfig
    diffusers_class: ClassVar[str | None] = None
    config: IdentityConfig

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.latent_space
        self.image_channels = config.channels

    def encode(
        self, image: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b k i j"]:
        """The image [B, channels, H, W] itself, of any H and W.

        Args:
            image: Pixels in [-1, 1].
            generator: Accepted and left alone: nothing is random here.

        Raises:
            SpecError: The image has the wrong number of channels.
        """
        _check(image, self.config.channels, "encoder", "encode an image")
        return image


@final
class IdentityDecoder(Decoder):
    """Latents as pixels.

    Args:
        config: The same as the encoder's.
    """

    name = "identity"
    Config = IdentityConfig
    diffusers_class: ClassVar[str | None] = None
    config: IdentityConfig

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = config.latent_space
        self.image_channels = config.channels

    def decode(self, latent: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """The latent [B, channels, H, W] itself.

        Raises:
            SpecError: The latent has the wrong number of channels.
        """
        _check(latent, self.config.channels, "decoder", "decode a latent")
        return latent


@hookimpl
def register_components() -> list[type[Component]]:
    """The two halves of the codec."""
    return [IdentityEncoder, IdentityDecoder]


def _check(values: Tensor, channels: int, kind: str, action: str) -> None:
    if values.ndim != 4 or values.shape[1] != channels:
        raise SpecError(
            f"{kind} 'identity' cannot {action} of shape {list(values.shape)}",
            [f"expected [batch, {channels}, height, width]"],
            "set the config key 'channels' to the number of channels",
        )
