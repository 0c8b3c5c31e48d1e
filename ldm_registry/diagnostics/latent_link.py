"""How the latents of an encoder relate to those that a decoder wants for the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.signatures import AffineMap, mixing_fit

PLACE = "in place"
TURNS: Mapping[str, Callable[[Tensor], Tensor]] = {
    PLACE: lambda z: z,
    "mirrored left to right": lambda z: z.flip(-1),
    "upside down": lambda z: z.flip(-2),
    "turned by 180 degrees": lambda z: z.flip(-1, -2),
    "transposed": lambda z: z.mT if z.shape[-1] == z.shape[-2] else z,
    "moved right by one cell": lambda z: z.roll(-1, -1),
    "moved left by one cell": lambda z: z.roll(1, -1),
    "moved down by one cell": lambda z: z.roll(-1, -2),
    "moved up by one cell": lambda z: z.roll(1, -2),
}
"""What an encoder may have done to its latents, and how to undo it."""

GAINS = (0.82, 1.5)
"""Descent makes latents a little larger than an encoder does."""
LARGEST_UNEXPLAINED = 0.25
"""Beyond it a scale says nothing."""
LARGEST_OFFSET = 0.4
LARGEST_MIXING = 0.3
TURN_MARGIN = 0.5
"""A turn has to leave over less than this share of what staying in place leaves over."""


@dataclass(frozen=True, slots=True)
class Link:
    """`wanted = matrix @ turn(encoded) + offset`, fitted with the encoder's side as the given one.

    Attributes:
        turn: A name of `TURNS`.
        fit: From the turned encoded latents to the wanted ones.
        in_place: Unexplained share without a turn.
        spread: Standard deviation of the wanted latents.
    """

    turn: str
    fit: AffineMap
    in_place: float
    spread: float

    @classmethod
    def between(cls, encoded: Tensor, wanted: Tensor) -> Link:
        """Fit latents [N, c, h, w] of the same images under every turn and keep the best."""
        fits = {name: mixing_fit(turn(encoded), wanted) for name, turn in TURNS.items()}
        best = min(fits, key=lambda name: fits[name].unexplained)
        in_place = fits[PLACE].unexplained
        if not fits[best].unexplained < TURN_MARGIN * in_place or in_place < 0.15:
            best = PLACE
        return cls(best, fits[best], in_place, float(wanted.std()))

    def mapped(self, encoded: Tensor) -> Tensor:
        """The encoder's latents as the decoder would have them, without the noise of an inversion."""
        turned = TURNS[self.turn](encoded)
        offset = self.fit.offset.float()[:, None, None]
        return torch.einsum("ij,bjhw->bihw", self.fit.matrix.float(), turned) + offset

    def words(self) -> Iterator[str]:
        """What the encoder's latents are, seen from the decoder; nothing where the two agree."""
        if self.turn != PLACE:
            yield self.turn
        permuted = self.fit.permutation()
        if permuted is not None:
            yield f"permuted across channels {permuted}"
            return
        if self.fit.mixing > LARGEST_MIXING:
            yield "mixed across channels, as those of another codec"
            return
        gain = self.fit.gain
        if not GAINS[0] < gain < GAINS[1] and self.fit.unexplained < LARGEST_UNEXPLAINED:
            yield f"scaled by {1.0 / gain:.2f}" if abs(gain) > 0.05 else "unrelated"
        if float(self.fit.offset.abs().max()) > LARGEST_OFFSET * max(self.spread, 1e-6):
            shifts = ", ".join(f"{-value:+.2f}" for value in self.fit.offset[:16].tolist())
            yield f"shifted by ({shifts})"
