"""Faults of how a decoder is run: its number type, and its tiles."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from ldm_faults.fault import Fault, around, floating
from ldm_registry.interfaces import Component
from ldm_registry.vocabulary import Kind

_TILES_PER_SIDE = 8
_SPREAD = 37.0


@final
class HalfPrecisionOverflow(Fault):
    """F01: activations inside the decoder exceed what half precision holds, and the image is NaN.

    Met as black images although the previews were fine (the SDXL VAE in float16; `force_upcast` lost in an
    upgrade). Emulated at the decoder's output: latents finite, image not. Strength is the share of the images
    that overflow, told by the latent alone, so the same image fails each time. A decoder in double precision
    never overflows, so a wider type restores the image.
    """

    name = "half-precision-overflow"
    fault_id = "F01"
    modifies = stages = (Kind.DECODER,)
    words = ("NaN", "not finite", "overflow")
    fault_class = "overflow in half precision"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        if not any(True for _ in floating(part)):
            raise self.refusal(part, "it computes nothing that could overflow")
        strength = self.strength

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            image = original(latent)
            if latent.dtype == torch.float64:
                return image
            lot = (_SPREAD * latent.float().flatten(1).mean(dim=1)).remainder(1.0)
            overflows = (lot < strength).view(-1, 1, 1, 1)
            return image.masked_fill(overflows, float("nan"))

        around(part, "decode", decode)


@final
class TiledDecode(Fault):
    """F19: the latent is decoded in tiles that know nothing of one another.

    Met as seams and steps of tone (group norms and attention take their statistics from one tile). A side has
    `8 * strength` tiles, at least 2, at most one for each cell.
    """

    name = "tiled-decode"
    fault_id = "F19"
    modifies = stages = (Kind.DECODER,)
    words = ("tile", "seam", "mesh of period")
    fault_class = "tiled decoding"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        if not any(True for _ in floating(part)):
            raise self.refusal(part, "it treats every cell alone, so tiles make no difference")
        tiles = max(2, round(_TILES_PER_SIDE * self.strength))

        def decode(part: Component, original: Any, latent: Tensor) -> Any:
            rows = latent.tensor_split(min(tiles, latent.shape[2]), dim=2)
            return torch.cat([_row(original, row, tiles) for row in rows], dim=2)

        around(part, "decode", decode)


def _row(decode: Any, row: Tensor, tiles: int) -> Tensor:
    pieces = row.tensor_split(min(tiles, row.shape[3]), dim=3)
    return torch.cat([decode(piece.contiguous()) for piece in pieces], dim=3)
