"""SSIM of a round trip, from torchmetrics where it is installed."""

from __future__ import annotations

from torch import Tensor

LEAST_SIDE = 11
"""Pixels: the window of SSIM (Wang et al. 2004, section III.C) has to lie inside the image."""
MISSING = "SSIM is left out; `pip install 'ldm-registry[metrics]'` brings it"


def ssim(made: Tensor, true: Tensor) -> float | None:
    """Mean structural similarity; 1 for equal images.

    Wang et al. 2004, Eq. 13, as torchmetrics computes it: a Gaussian window of 11 pixels, peak-to-peak range 2.

    Args:
        made: [N, C, H, W], clamped to [-1, 1] here.
        true: The same shape, in [-1, 1].

    Returns:
        None where images are smaller than the window.

    Raises:
        ImportError: torchmetrics is not installed.
    """
    # Here, not above: it takes seconds, and is an extra.
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(true.shape[-2:]) < LEAST_SIDE:
        return None
    found = structural_similarity_index_measure(made.clamp(-1, 1), true, data_range=(-1.0, 1.0))
    assert isinstance(found, Tensor)
    return float(found)
