"""Run a sampler on a denoiser that needs no network, and keep everything that crosses the interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Denoised, NoiseLevel, NoiseLevels, Scheduler, Step

Answer = Callable[[Tensor, NoiseLevel], Tensor]
"""Exact clean estimate of z at a level."""
VarianceAt = Callable[[int], float | None]
"""What is said of the variance, by the index of the step."""


@dataclass(frozen=True, slots=True)
class Call:
    """The sampler asked for a clean estimate.

    Attributes:
        step: Index of the step that it asked for.
        level: That it told.
        z: That it gave.
        x0: The answer.
    """

    step: int
    level: NoiseLevel
    z: Tensor
    x0: Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that happened.

    Attributes:
        steps: In order.
        calls: In order.
        needs_variance: Whether the sampler only works with a denoiser that gives variances.
    """

    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    needs_variance: bool

    @property
    def end(self) -> Tensor:
        """The last state."""
        return self.steps[-1].z


def run(scheduler: Scheduler, answer: Answer, z: Tensor, seed: int = 0) -> Run:
    """One trajectory from a given state.

    Args:
        scheduler: The sampler.
        answer: The denoiser.
        z: [B, C, H, W] at the first level, float64.
        seed: Of the noise that the sampler adds.
    """
    try:
        return _run(scheduler, answer, z, seed, _no_variance)
    except ContractError:
        lower = _run(scheduler, answer, z, seed, _lower_bound)
    # One that adds no noise at the lower bound takes what it is given for the variance itself, not for a share.
    if any(
        not torch.equal(a.z, b.z)
        for a, b in zip(lower.steps, _reseeded(scheduler, answer, z, seed), strict=False)
    ):
        return lower
    return _run(scheduler, answer, z, seed, _posterior_variance(scheduler.levels()))


def _reseeded(scheduler: Scheduler, answer: Answer, z: Tensor, seed: int) -> tuple[Step, ...]:
    return _run(scheduler, answer, z, seed + 1, _lower_bound).steps


def _run(scheduler: Scheduler, answer: Answer, z: Tensor, seed: int, variance: VarianceAt) -> Run:
    steps: list[Step] = []
    calls: list[Call] = []

    def denoise(state: Tensor, level: NoiseLevel) -> Denoised:
        x0 = answer(state, level)
        calls.append(Call(len(steps), level, state.clone(), x0))
        told = variance(len(steps))
        return Denoised(x0.clone(), None if told is None else torch.full_like(x0, told))

    generator = torch.Generator().manual_seed(seed)
    for step in scheduler.trajectory(denoise, z.clone(), generator):
        steps.append(Step(step.index, step.level, step.z.clone(), step.x0.clone()))
    return Run(tuple(steps), tuple(calls), variance is not _no_variance)


def _no_variance(_step: int) -> None:
    return None


def _lower_bound(_step: int) -> float:
    """The lower of the two bounds that a learned variance interpolates between."""
    return -1.0


def _posterior_variance(levels: NoiseLevels) -> VarianceAt:
    """Of the variance-preserving state after a step, given the one before and the data (Eq. 7, Ho et al. 2020)."""

    def variance(step: int) -> float:
        index = min(step, len(levels) - 2)
        before, after = levels[index].normalised(), levels[index + 1].normalised()
        ratio = float(before.alpha * after.sigma) / max(float(after.alpha * before.sigma), 1e-300)
        return float(after.sigma) ** 2 * (1.0 - min(ratio, 1.0) ** 2)

    return variance


def reference_end(levels: NoiseLevels, answer: Answer, z: Tensor, *, eta: float, seed: int = 0) -> Tensor:
    """Where the plainest sampler ends on the same levels: Eq. 12 of Song et al. 2021.

    Args:
        levels: N + 1.
        answer: The denoiser.
        z: [B, ...] at the first level.
        eta: 0 deterministic ... 1 with the noise of the posterior.
        seed: Of that noise.
    """
    generator = torch.Generator().manual_seed(seed)
    for before, after in pairwise(levels):
        alpha, sigma = float(before.alpha), float(before.sigma)
        next_alpha, next_sigma = float(after.alpha), float(after.sigma)
        if sigma <= 0.0 or next_alpha <= 0.0:
            continue
        ratio = min(alpha * next_sigma / (next_alpha * sigma), 1.0)
        std = eta * next_sigma * math.sqrt(1.0 - ratio**2)
        gain = math.sqrt(max(next_sigma**2 - std**2, 0.0)) / sigma
        x0 = answer(z, before)
        z = gain * z + (next_alpha - gain * alpha) * x0
        if std > 0.0:
            z = z + std * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    return z
