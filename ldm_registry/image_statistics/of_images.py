"""All that is kept of a set of images: what a report needs, in a size that does not grow with the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self, final

import torch
from torch import Tensor

from ldm_registry.data import ImageSet, to_unit
from ldm_registry.diagnostics.features import convolution_features, patch_features
from ldm_registry.image_statistics.gaussian import Gaussian

FEATURES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "random convolutions": partial(convolution_features, dtype=torch.float64),
    "random patches": patch_features,
}
"""[N, C, H, W] in [-1, 1] to vectors; seeded, so that everybody's are the same."""
CHUNK_VALUES = 2**21
"""Pixel values that are looked at together."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class ImageStatistics:
    """Of a set of images.

    Attributes:
        images: How many.
        labels: How many of each label.
        sizes: How many of each height and width, in pixels.
        pixels: Of colours, [C], in [-1, 1].
        features: Of feature vectors, by the features' name.
    """

    images: int = 0
    labels: Mapping[int, int] = field(default_factory=dict)
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    pixels: Gaussian = field(default_factory=lambda: Gaussian.none(0))
    features: Mapping[str, Gaussian] = field(default_factory=dict)

    @classmethod
    def of(cls, found: ImageSet) -> Self:
        """Of some images.

        Args:
            found: The images and their labels.
        """
        images = found.images
        if not len(images):
            return cls()
        pixels = Gaussian.none(images.shape[1])
        features: dict[str, Gaussian] = {}
        for part in torch.split(images, max(1, CHUNK_VALUES // images[0].numel())):
            unit = to_unit(part, torch.float64)
            pixels = pixels.merged(Gaussian.of(unit.movedim(1, 3).flatten(0, 2)))
            for name, extract in FEATURES.items():
                here = Gaussian.of(extract(unit))
                features[name] = features[name].merged(here) if name in features else here
        labels = dict(sorted(Counter(found.labels.tolist()).items()))
        height, width = images.shape[2:]
        return cls(len(images), labels, {(height, width): len(images)}, pixels, features)

    def merged(self, other: Self) -> Self:
        """Of the images of both.

        Args:
            other: Of other images.
        """
        if not self.images or not other.images:
            return self if self.images else other
        labels = Counter(self.labels) + Counter(other.labels)
        sizes = Counter(self.sizes) + Counter(other.sizes)
        features = {name: mine.merged(other.features[name]) for name, mine in self.features.items()}
        return type(self)(
            self.images + other.images,
            dict(sorted(labels.items())),
            dict(sorted(sizes.items())),
            self.pixels.merged(other.pixels),
            features,
        )
