"""Faults at the seam between files and networks: which numbers stand for black and white."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from ldm_faults.fault import Fault, around
from ldm_registry.interfaces import Component
from ldm_registry.vocabulary import Kind


@final
class UnitRangeInput(Fault):
    """F10: the encoder is fed [0, 1] where it expects [-1, 1].

    Met as overexposed, whitened reconstructions of half the contrast (fine-tuning scripts for FLUX and Stable
    Video Diffusion). Strength goes from [-1, 1] to [0, 1].
    """

    name = "unit-range-input"
    fault_id = "F10"
    modifies = stages = (Kind.ENCODER,)
    words = ("pixel range of its input", "pixels are taken as [0")
    fault_class = "pixel range of the encoder's input"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        weight = 0.5 * self.strength

        def encode(part: Component, original: Any, image: Tensor, generator: Any = None) -> Any:
            return original(image + weight * (1.0 - image), generator)

        around(part, "encode", encode)


@final
class UnmappedOutput(Fault):
    """F11: the decoder's [-1, 1] is taken for [0, 1] on one path, so everything below mid-grey is black.

    Met as dark, burned images (helper nodes around a VAE). Strength goes from mapped to unmapped.
    """

    name = "unmapped-output"
    fault_id = "F11"
    modifies = stages = (Kind.DECODER,)
    words = ("pixel range of its output", "range of pixels is exceeded")
    fault_class = "pixel range of the decoder's output"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        strength = self.strength

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            image = original(latent)
            # A viewer that expects [0, 1] shows the value y where 2 y - 1 was meant.
            return image + strength * (image - 1.0)

        around(part, "decode", decode)


@final
class EDM2Range(Fault):
    """F13: a codec whose network works on pixels in [0, 1], consistently, and says so. No fault: the control.

    Met as a report about EDM2, whose encoder was trained on [0, 1] and gets it. Looks like F10 in the code and
    is right. The range that the network sees goes from [-1, 1] to [0, 1] with strength; the images do not change.
    """

    name = "edm2-range"
    fault_id = "F13"
    modifies = stages = (Kind.ENCODER, Kind.DECODER)
    blames: tuple[Kind, ...] = ()
    words = ()
    fault_class = "none: another pixel range, used consistently"
    harmless = True

    def injure(self, part: Component) -> None:
        """As `Fault.injure`; the range is declared as `value_range`."""
        low = self.strength - 1.0
        half = 0.5 * (1.0 - low)

        def encode(part: Component, original: Any, image: Tensor, generator: Any = None) -> Any:
            seen = low + half * (image + 1.0)
            return original((seen - low) / half - 1.0, generator)

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            made = low + half * (original(latent) + 1.0)
            return (made - low) / half - 1.0

        kind = part.kind
        around(
            part, "encode" if kind is Kind.ENCODER else "decode", encode if kind is Kind.ENCODER else decode
        )
        self.declare(part, low)

    @staticmethod
    def declare(part: Component, low: float) -> None:
        """Say which range the network works on."""
        part.__dict__["value_range"] = (low, 1.0)
