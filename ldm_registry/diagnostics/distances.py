"""Distances between two sets of feature vectors, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians: `|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)`.

    Dowson and Landau 1982, Eq. 16. The symmetric form needs no square root of a matrix that is not symmetric.

    Args:
        mean_a: [D].
        cov_a: [D, D], symmetric, positive semidefinite; may be singular.
        mean_b: As `mean_a`.
        cov_b: As `cov_a`.
    """
    mean_a, cov_a, mean_b, cov_b = (value.double() for value in (mean_a, cov_a, mean_b, cov_b))
    half = _root(cov_a)
    inner = half @ cov_b @ half
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    squared = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(squared), 0.0)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets.

    It grows as sets shrink (Bińkowski et al. 2018), so it ranks sets of one size only.

    Args:
        a: [N, D], N of at least 2.
        b: [M, D], M of at least 2.
    """
    a, b = a.double(), b.double()
    return gaussian_frechet_distance(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under `k(x, y) = (x . y / D + 1)^3`.

    Eq. 3 of Gretton et al. 2012 with the kernel of Bińkowski et al. 2018 (KID). Its expectation is 0 for samples of one
    distribution, whatever their number, so it can be negative.

    Args:
        a: [N, D], N of at least 2.
        b: [M, D], M of at least 2.
    """
    a, b = a.double(), b.double()
    return (
        _off_diagonal_mean(_kernel(a, a))
        + _off_diagonal_mean(_kernel(b, b))
        - 2 * float(_kernel(a, b).mean())
    )


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _off_diagonal_mean(kernel: Tensor) -> float:
    count = len(kernel)
    return float(kernel.sum() - kernel.trace()) / (count * (count - 1))


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
