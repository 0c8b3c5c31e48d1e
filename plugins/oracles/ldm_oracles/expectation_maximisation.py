"""Expectation-maximisation for Gaussian mixtures with diagonal covariances, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.errors import SpecError


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of K Gaussians in D dimensions.

    Attributes:
        log_proportions: [K], `log pi_k`.
        means: [K, D].
        variances: [K, D].
    """

    log_proportions: Tensor
    means: Tensor
    variances: Tensor

    def log_joint(self, points: Tensor) -> Tensor:
        """`log pi_k + log N(x; mu_k, diag(s_k))` for points [N, D]: [N, K], nats."""
        precision = 1.0 / self.variances
        square = points.square() @ precision.T - 2 * points @ (self.means * precision).T
        square = square + (self.means.square() * precision).sum(1)
        log_scale = self.variances.log().sum(1) + points.shape[1] * math.log(2 * math.pi)
        return self.log_proportions - 0.5 * (square + log_scale)


def fit_mixture(
    points: Tensor,
    components: int,
    *,
    isotropic: bool,
    iterations: int,
    tolerance_nats: float,
    min_variance: float,
    generator: torch.Generator,
) -> Mixture:
    """Maximise the likelihood of points (Dempster, Laird and Rubin 1977; section 9.2 of Bishop 2006).

    Starts from k-means++ seeds, each with the variance of the whole set.

    Args:
        points: float64 [N, D].
        components: K.
        isotropic: One variance for each component, shared by its D values.
        iterations: At most so many rounds.
        tolerance_nats: Stop when the mean log-likelihood per value rises by less.
        min_variance: Floor of every variance, without which a component may shrink onto one point.
        generator: Draws the seeds.

    Raises:
        SpecError: There are fewer points than components.
    """
    if len(points) < components:
        raise SpecError(
            f"a mixture of {components} Gaussians cannot be fitted to {len(points)} latents",
            hint="lower `components`, or fit it to more images",
        )
    spread = points.var(0, correction=0).clamp_min(min_variance)
    if isotropic:
        spread = spread.mean().expand_as(spread)
    means = points[seeds(points, components, generator)]
    uniform = points.new_full((components,), -math.log(components))
    mixture, before = Mixture(uniform, means, spread.expand_as(means)), -math.inf
    for _ in range(iterations):
        joint = mixture.log_joint(points)
        now = float(joint.logsumexp(1).mean()) / points.shape[1]
        mixture = _maximise(points, joint.softmax(1), isotropic=isotropic, min_variance=min_variance)
        if now - before < tolerance_nats:
            break
        before = now
    return mixture


def _maximise(points: Tensor, responsibility: Tensor, *, isotropic: bool, min_variance: float) -> Mixture:
    # A component that has lost all points keeps a finite mean and variance, and no weight to speak of.
    weight = responsibility.sum(0).clamp_min(torch.finfo(points.dtype).tiny)
    share = (responsibility / weight).T
    means = share @ points
    variances = share @ points.square() - means.square()
    if isotropic:
        variances = variances.mean(1, keepdim=True).expand_as(means)
    return Mixture((weight / len(points)).log(), means, variances.clamp_min(min_variance))


def seeds(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` points that lie far from one another (k-means++, Arthur and Vassilvitskii 2007).

    Args:
        points: [N, D].
        count: How many, at most N.
        generator: On the CPU; makes the choice.
    """
    first = int(torch.randint(len(points), (), generator=generator))
    chosen = [first]
    distance = (points - points[first]).square().sum(1)
    for _ in range(count - 1):
        # Where all points coincide there is nothing to choose by, and any will do.
        weight = (
            distance.cpu() if bool((distance > 0).any()) else torch.ones(len(points), dtype=torch.float64)
        )
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, device=points.device)
