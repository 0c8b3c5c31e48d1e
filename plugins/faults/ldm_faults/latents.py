"""Faults between the codec and the denoiser: what a latent of this shape means."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from ldm_faults.fault import Fault, SeededConfig, around
from ldm_registry.interfaces import Component
from ldm_registry.vocabulary import Kind

_SCALING_OF_SDXL, _SCALING_OF_SD = 0.13025, 0.18215
_TURN = 0.8
_STRETCH_NATS = 0.3


@final
class WrongScalingFactor(Fault):
    """F03: the loader forces the scaling factor of another family on the decoder.

    Met as washed-out images of an SDXL VAE that was loaded with the 0.18215 of Stable Diffusion. The latent comes
    out smaller by `(0.13025 / 0.18215) ** strength`.
    """

    name = "wrong-scaling-factor"
    fault_id = "F03"
    modifies = stages = (Kind.DECODER,)
    # What a smaller latent decodes to is less contrast; a test on images alone can say no more.
    words = ("latents are scaled", "contrast is multiplied")
    fault_class = "latent scaling factor"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        _require_codec(self, part)
        ratio = (_SCALING_OF_SDXL / _SCALING_OF_SD) ** self.strength

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            return original(ratio * latent)

        around(part, "decode", decode)


@final
class DroppedShift(Fault):
    """F05: the shift of the latents is not added back before decoding.

    Met as a change of colour and brightness in one task alone (the inpainting pipeline of Stable Diffusion 3).
    Strength is the share of the shift that is lost.
    """

    name = "dropped-shift"
    fault_id = "F05"
    modifies = stages = (Kind.DECODER,)
    words = ("latents are shifted", "brightness or colour is shifted")
    fault_class = "latent shift"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        lost = [self.strength * value for value in self._shift(part)]

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            return original(
                latent - torch.tensor(lost, dtype=latent.dtype, device=latent.device).view(1, -1, 1, 1)
            )

        around(part, "decode", decode)

    def _shift(self, part: Component) -> list[float]:
        """What decoding adds to each channel, in denoiser space."""
        config = part.config
        mean = getattr(config, "latents_mean", None) or getattr(config, "shift_factor", None)
        std = getattr(config, "latents_std", None) or 1.0 / (getattr(config, "scaling_factor", None) or 1.0)
        if not mean:
            raise self.refusal(
                part, "its config has neither `latents_mean` nor `shift_factor`: no shift to drop"
            )
        means = mean if isinstance(mean, tuple) else (mean,)
        stds = std if isinstance(std, tuple) else (std,) * len(means)
        return [one / two for one, two in zip(means, stds, strict=True)]


@final
class WrongCodecSameShape(Fault):
    """F17: a codec of the same shape from another training, so that the denoiser's latents mean something else.

    Met as plausible but faded or rainbow images (the SD 1 and SDXL VAEs have 4 channels each). Emulated by a
    rotation of the latent channels and a stretch of each, which grow with strength. In both halves the round trip
    stays right; in one half alone it does not.
    """

    name = "wrong-codec-same-shape"
    fault_id = "F17"
    Config = SeededConfig
    modifies = stages = (Kind.ENCODER, Kind.DECODER)
    words = ("another codec", "mixed across channels")
    fault_class = "latents of another codec"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        channels = _require_codec(self, part)
        there = self.mixing(channels)
        back = torch.linalg.inv(there)

        def encode(part: Component, original: Any, image: Tensor, generator: Any = None) -> Any:
            return _mixed(there, original(image, generator))

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            return original(_mixed(back, latent))

        around(
            part,
            "encode" if part.kind is Kind.ENCODER else "decode",
            encode if part.kind is Kind.ENCODER else decode,
        )

    def mixing(self, channels: int) -> Tensor:
        """From the latents of one codec to those of the other, float64 [C, C]."""
        generator = self.generator()
        free = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
        stretch = torch.randn(channels, generator=generator, dtype=torch.float64)
        turn = torch.linalg.matrix_exp(self.strength * _TURN * (free - free.T))
        mixing: Tensor = turn @ torch.diag(torch.exp(self.strength * _STRETCH_NATS * stretch))
        return mixing


def _mixed(matrix: Tensor, latent: Tensor) -> Tensor:
    mixed: Tensor = torch.einsum("dc,bchw->bdhw", matrix.to(latent), latent)
    return mixed


def _require_codec(fault: Fault, part: Component) -> int:
    """Channels of the latent of a codec; pixel space is refused."""
    space = getattr(part, "latent_space", None)
    if space is None or space.stride == 1:
        raise fault.refusal(part, "pixel space has no latents whose meaning or scale could be mistaken")
    return int(space.channels)
