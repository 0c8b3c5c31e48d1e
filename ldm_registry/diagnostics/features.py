"""Features of images that need no download: seeded random convolutions, and random projections of patches.

Networks with random weights order image sets much as trained ones do (Saxe et al. 2011, "On random weights and
unsupervised feature learning"), but their distances mean nothing outside one report: no comparison with published
FID or KID.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

WIDTHS = (16, 32, 64)
"""Channels after each halving of the resolution."""
PATCH = 8
"""Pixels."""
PROJECTED = 24
"""Dimensions of a patch after its projection."""


def convolution_features(images: Tensor, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Mean and standard deviation over all places of what random convolutions see, at three resolutions.

    Args:
        images: [N, C, H, W] in [-1, 1].
        seed: Of the weights; only features of the same seed can be compared.
        dtype: To convolve in. In float32 the last digits depend on which images are looked at together.

    Returns:
        float64 [N, 224].
    """
    generator = torch.Generator().manual_seed(seed)
    x = images.detach().to("cpu", dtype).clamp(-1, 1)
    found = []
    for width in WIDTHS:
        weight = torch.randn(width, x.shape[1], 3, 3, generator=generator, device="cpu")
        # He et al. 2015: keeps the variance through the rectifier.
        weight *= math.sqrt(2.0 / weight[0].numel())
        x = functional.relu(functional.conv2d(x, weight.to(dtype), padding=1))
        places = x.double().flatten(2)
        found += [places.mean(-1), places.std(-1, correction=0)]
        if min(x.shape[-2:]) > 1:
            x = functional.avg_pool2d(x, 2)
    return torch.cat(found, dim=1)


def patch_features(images: Tensor, seed: int = 0, per_image: int = 16) -> Tensor:
    """Patches from seeded places, projected at random: texture and colour without composition.

    Args:
        images: [N, C, H, W] in [-1, 1].
        seed: Of places and projection; only features of the same seed can be compared.
        per_image: How many patches of each image; all images are cut at the same places.

    Returns:
        float64 [N * per_image, 24].
    """
    generator = torch.Generator().manual_seed(seed)
    x = images.detach().to("cpu", torch.float64).clamp(-1, 1)
    height, width = (min(PATCH, side) for side in x.shape[-2:])
    rows = torch.randint(x.shape[-2] - height + 1, (per_image,), generator=generator).tolist()
    columns = torch.randint(x.shape[-1] - width + 1, (per_image,), generator=generator).tolist()
    cut = [
        x[:, :, row : row + height, column : column + width].flatten(1)
        for row, column in zip(rows, columns, strict=True)
    ]
    patches = torch.stack(cut, dim=1).flatten(0, 1)
    size = patches.shape[1]
    basis = torch.randn(size, PROJECTED, generator=generator, dtype=torch.float64, device="cpu")
    return patches @ basis / math.sqrt(size)
