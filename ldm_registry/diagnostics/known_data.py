"""Data whose best denoiser is known in closed form, one value at a time; all in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel


@dataclass(frozen=True, slots=True)
class Mixture:
    """Independent values, each of one of K Gaussians of equal weight. One Gaussian is K = 1, a point has std 0.

    Attributes:
        means: K of them.
        std: Of each.
    """

    means: tuple[float, ...]
    std: float

    @property
    def mean(self) -> float:
        """Of a value."""
        return sum(self.means) / len(self.means)

    @property
    def total_std(self) -> float:
        """Of a value, the spread of the means included."""
        spread = sum((mean - self.mean) ** 2 for mean in self.means) / len(self.means)
        return float((spread + self.std**2) ** 0.5)

    def samples(self, count: int) -> Tensor:
        """Evenly spaced quantiles in place of random samples, [count, 1, 1, 1]; of exact mean and std."""
        each = count // len(self.means)
        grid = normal_quantiles(each)
        return torch.cat([mean + self.std * grid for mean in self.means]).view(-1, 1, 1, 1)

    def clean(self, z: Tensor, level: NoiseLevel) -> Tensor:
        """`E[x0 | z]` (section 2.3.9 of Bishop 2006).

        Args:
            z: Any shape, at the level.
            level: Shape [].
        """
        alpha, sigma = float(level.alpha), float(level.sigma)
        means = z.new_tensor(self.means)
        total = max(alpha**2 * self.std**2 + sigma**2, 1e-300)
        offset = z[..., None] - alpha * means
        weights = torch.softmax(-0.5 * offset.square() / total, dim=-1)
        return (weights * (means + alpha * self.std**2 / total * offset)).sum(-1)

    def distance(self, values: Tensor) -> float:
        """How far values lie from this distribution: 1-Wasserstein, in units of its std."""
        found = values.double().flatten().sort().values
        true = self.samples(len(found)).flatten().sort().values
        if len(true) < len(found):
            found = found[: len(true)]
        return float((found - true).abs().mean()) / max(self.total_std, 1e-6)


def normal_quantiles(count: int) -> Tensor:
    """Evenly spaced quantiles of a standard normal, float64 [count], of mean 0 and std exactly 1."""
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    values: Tensor = torch.special.ndtri(share)
    values = values - values.mean()
    return values / values.std(correction=0)


def shuffled(values: Tensor, seed: int) -> Tensor:
    """The same values [N, ...] in another order."""
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
