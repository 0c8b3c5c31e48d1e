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
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def none(cls, size: int) -> Self:
        """Of no vectors at all, the neutral element of `merged`.

        Args:
            size: D.
        """
        mean = torch.zeros(size, dtype=torch.float64, device="cpu")
        return cls(0, mean, torch.zeros(size, size, dtype=torch.float64, device="cpu"))

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
        return cls(len(x), mean, centred.T @ centred)

    def merged(self, other: Self) -> Self:
        """Of the vectors of both.

        Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", Eq. 2.1, for vectors.

        Args:
            other: Of other vectors of the same size.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * torch.outer(step, step)
        return type(self)(count, self.mean + step * (other.count / count), scatter)

    @property
    def covariance(self) -> Tensor:
        """[D, D], unbiased; NaN where there are fewer than two vectors."""
        return self.scatter / (self.count - 1 if self.count > 1 else float("nan"))
