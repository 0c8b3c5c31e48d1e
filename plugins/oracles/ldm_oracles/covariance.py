"""Principal axes of a set of latents, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_axes(centred: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The eigendecomposition of the maximum-likelihood covariance, cut off after `rank` axes.

    Decomposes whichever Gram matrix is smaller, D x D or N x N, so the values of one image may outnumber the
    images by far (pixel space). The variance that is cut off is shared evenly by the axes that are left
    (Tipping and Bishop 1999, Eq. 8), so the trace of the covariance is kept.

    Args:
        centred: Latents minus their mean, float64 [N, D].
        rank: Axes to keep; None keeps all D.

    Returns:
        Variances [R] falling, axes [D, R] orthonormal, and the variance of every other direction [].
    """
    count, dimension = centred.shape
    total = centred.square().sum() / count
    kept = min(rank or dimension, dimension)
    if count < dimension and kept < count:
        variance, left = torch.linalg.eigh(centred @ centred.T / count)
        axes = centred.T @ left.flip(1)[:, :kept]
        axes = axes / torch.linalg.vector_norm(axes, dim=0).clamp_min(torch.finfo(axes.dtype).tiny)
        # Axes without variance come out of the small matrix as rounding; QR makes them orthonormal again.
        axes = torch.linalg.qr(axes).Q
    else:
        variance, axes = torch.linalg.eigh(centred.T @ centred / count)
        axes = axes.flip(1)[:, :kept]
    variance = variance.flip(0)[:kept].clamp_min(0.0)
    tail = (total - variance.sum()).clamp_min(0.0) / max(dimension - kept, 1)
    return variance, axes.contiguous(), tail
