"""Mean and covariance of vectors, of parts that can be put together in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """Count, mean and scatter of vectors, in float64.

    Attributes:
        count: Vectors.
        mean: [D].
        scatter: [D, D], the sum of `(x - mean)(x - mean)^T`.
        rest: [D], what was rounded away from the mean: parts around a mean of 1e6 differ by less than its last digit.
    """

    count: int
    mean: Tensor
    scatter: Tensor
    rest: Tensor

    @classmethod
    def none(cls, size: int) -> Self:
        """Of no vectors at all, the neutral element of `merged`.

        Args:
            size: D.
        """
        nothing = torch.zeros(size, dtype=torch.float64, device="cpu")
        return cls(0, nothing, torch.zeros(size, size, dtype=torch.float64, device="cpu"), nothing)

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Of some vectors.

        Args:
            vectors: [N, D].
        """
        if not len(vectors):
            return cls.none(vectors.shape[1])
        x = vectors.detach().to("cpu", torch.float64)
        # The mean of what is left after the mean is rounding of the mean: 1e9 + 1e-3 would lose its digits otherwise.
        rough = x[0]
        mean = rough + (x - rough).mean(0)
        centred = x - mean
        mean = mean + centred.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred, centred.mean(0))

    def merged(self, other: Self) -> Self:
        """Of the vectors of both.

        Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", Eq. 2.1, for vectors.

        Args:
            other: Of other vectors of the same size.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = (other.mean - self.mean) + (other.rest - self.rest)
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * torch.outer(step, step)
        moved = step * (other.count / count) + self.rest
        mean = self.mean + moved
        # What the sum lost: Møller 1965, "Quasi double-precision in floating point addition", for terms of any size.
        virtual = mean - self.mean
        lost = (self.mean - (mean - virtual)) + (moved - virtual)
        return type(self)(count, mean, scatter, lost)

    @property
    def covariance(self) -> Tensor:
        """[D, D], unbiased; NaN where there are fewer than two vectors."""
        return self.scatter / (self.count - 1 if self.count > 1 else float("nan"))
