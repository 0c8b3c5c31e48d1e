"""How images of one index differ between two sets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self, final

import torch
from torch import Tensor

from ldm_registry.data import to_unit
from ldm_registry.diagnostics.similarity import ssim
from ldm_registry.image_statistics.spread import Spread

PEAK = 255.0


@final
@dataclass(frozen=True, slots=True)
class Pairing:
    """Of images that have a partner in another set.

    Attributes:
        images: Pairs that were compared.
        unread: Images whose partner lies in a shard that could not be read.
        unlike: Pairs that were not compared, since they differ in size.
        equal: Pairs without any difference.
        beyond_one_level: Pairs of which some pixel differs by more than one of 256 levels.
        psnr_db: Of the pairs that differ.
        squared_error: Mean over the pixels of each pair, levels squared.
        absolute_error: Likewise, levels.
        ssim: Structural similarity of each pair; nothing where torchmetrics is not installed, or images are
            smaller than its window.
    """

    images: int = 0
    unread: int = 0
    unlike: int = 0
    equal: int = 0
    beyond_one_level: int = 0
    psnr_db: Spread = field(default_factory=Spread)
    squared_error: Spread = field(default_factory=Spread)
    absolute_error: Spread = field(default_factory=Spread)
    ssim: Spread = field(default_factory=Spread)

    @classmethod
    def of(cls, made: Tensor, other: Tensor) -> Self:
        """Of some pairs.

        Args:
            made: uint8 [N, C, H, W].
            other: The same shape, in the same order.
        """
        error = (made.to(torch.int16) - other.to(torch.int16)).abs().flatten(1)
        squared = error.double().square().mean(1).tolist()
        return cls(
            images=len(made),
            equal=squared.count(0.0),
            beyond_one_level=int((error.amax(1) > 1).sum()),
            psnr_db=Spread.of(10 * math.log10(PEAK**2 / value) for value in squared if value),
            squared_error=Spread.of(squared),
            absolute_error=Spread.of(error.double().mean(1).tolist()),
            ssim=Spread.of(_similarities(made, other)),
        )

    def merged(self, other: Self) -> Self:
        """Of the pairs of both.

        Args:
            other: Of other pairs.
        """
        merged: dict[str, Any] = {}
        for one in fields(self):
            mine, yours = getattr(self, one.name), getattr(other, one.name)
            merged[one.name] = mine.merged(yours) if isinstance(mine, Spread) else mine + yours
        return type(self)(**merged)

    def to_document(self) -> dict[str, Any]:
        """For JSON."""
        error = self.squared_error.mean
        return {
            "images": self.images,
            "partner_unread": self.unread,
            "of_other_size": self.unlike,
            "equal": self.equal,
            "beyond_one_level": self.beyond_one_level,
            "psnr_db": self.psnr_db.to_document(),
            "psnr_of_mean_error_db": 10 * math.log10(PEAK**2 / error) if error else None,
            "absolute_error_levels": self.absolute_error.to_document(),
            "ssim": self.ssim.to_document(),
        }


def _similarities(made: Tensor, other: Tensor) -> list[float]:
    """Of each pair; none where they cannot be computed."""
    try:
        found = [
            ssim(to_unit(one[None]), to_unit(another[None])) for one, another in zip(made, other, strict=True)
        ]
    except ImportError:
        return []
    return [value for value in found if value is not None]
