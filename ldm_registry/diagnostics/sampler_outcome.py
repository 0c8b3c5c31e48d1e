"""What a sampler does with exact denoisers: how it carries known values and noise, and what it makes of known data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.known_data import Mixture, normal_quantiles, shuffled
from ldm_registry.diagnostics.sampler_run import Call, Run, reference_end, run
from ldm_registry.interfaces import NoiseLevel, NoiseLevels, Scheduler

SAMPLES = 2048
EXACT = 0.01
"""A deterministic sampler follows a point mass to rounding; this is a hundredth of the noise."""
STATISTICAL = 0.08
"""Three standard errors of a std over `SAMPLES`, and room for samplers that churn."""
STANDARD_ERRORS = 4.0
"""Of the share of the known values in fresh noise."""
DISTANCE = 0.03
OVER_FIRST_ORDER = 1.6


@dataclass(frozen=True, slots=True)
class PointMass:
    """How a sampler carries known values and known noise.

    Attributes:
        noise: For each step, the noise in the state over what its level says; 1 is right.
        signal: Error of the share that the known values have in the state, in stds of the state.
        signal_by_chance: Standard error of that share in fresh noise of std 1; larger where the values are smaller.
        told: For each call, the same noise over that of the level told to the denoiser.
        residual: Noise in the last state.
        altered: Largest difference between the clean estimate that a step used and those it was given.
    """

    noise: tuple[float, ...]
    signal: tuple[float, ...]
    signal_by_chance: float
    told: tuple[float, ...]
    residual: float
    altered: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was found out about a sampler.

    Attributes:
        levels: That it says it visits.
        is_stochastic: Whether it adds noise.
        point: With known values and noise.
        unit_noise: For a stochastic sampler, the std at each step over that of the level for unit-variance data.
        distances: By the name of the data, how far its samples lie from them, and how far a first-order one's.
        repeats: Whether a second and an interrupted run equal the first.
        prior: Std of the start over that of unit-variance data at the first level.
        prior_low: The same where it starts from the noise of that level alone.
    """

    levels: NoiseLevels
    is_stochastic: bool
    point: PointMass
    unit_noise: tuple[float, ...]
    distances: dict[str, tuple[float, float]]
    repeats: bool
    prior: float
    prior_low: float

    @property
    def tolerance(self) -> float:
        """Of a ratio of stds."""
        return STATISTICAL if self.is_stochastic else EXACT

    @property
    def signal_tolerance(self) -> float:
        """Of the share of known values in a state: fresh noise correlates with them by chance."""
        return STANDARD_ERRORS * self.point.signal_by_chance if self.is_stochastic else EXACT

    @property
    def worst_signal(self) -> float:
        """Largest error of that share, in stds of the state."""
        return max((value if math.isfinite(value) else 1e6 for value in self.point.signal), default=0.0)

    @property
    def worst_noise(self) -> float:
        """Largest relative error of the noise in the state.

        A stochastic sampler may add the noise that is right for a point mass, or the one that is right for data of
        unit variance (section 3.2, Ho et al. 2020).
        """
        return self._worst_noise(len(self.point.noise))

    @property
    def worst_noise_on_the_way(self) -> float:
        """The same without the last state: what is left there is `residual`."""
        return self._worst_noise(len(self.point.noise) - 1)

    def _worst_noise(self, count: int) -> float:
        errors = [worst(self.point.noise[:count])]
        if self.is_stochastic:
            errors.append(worst(self.unit_noise[:count]))
        return min(errors)

    @property
    def told_error(self) -> float:
        """Largest relative difference between the noise in a state and the level told with it.

        The noise that a stochastic sampler adds is judged by `worst_noise`; only what it says of it counts here.
        """
        told = worst(self.point.told)
        return min(told, self.worst_noise) if self.is_stochastic else told

    def allowed(self, name: str) -> float:
        """How far samples of some data may lie from them, in stds."""
        return DISTANCE + (0.04 if self.is_stochastic else 0.0) + OVER_FIRST_ORDER * self.distances[name][1]

    def excess(self, name: str) -> float:
        """How far samples of some data lie from them, over what is allowed; above 1 is too far."""
        return self.distances[name][0] / self.allowed(name)


def examine(scheduler: Scheduler, *, extent: float, seed: int = 0) -> Outcome:
    """Run a sampler on a point mass, three Gaussians and a mixture.

    Args:
        scheduler: The sampler.
        extent: How far data reach from 0: 1 for pixels, 3 for latents of unit variance. A sampler for pixels may
            clip what lies beyond.
        seed: Of the noise that it adds.
    """
    levels = scheduler.levels()
    values = _values(extent)
    noise = _orthogonal(shuffled(normal_quantiles(SAMPLES), seed + 1).view(-1, 1, 1, 1), values)
    start = levels[0].add_noise(values, noise)

    def known(z: Tensor, level: NoiseLevel) -> Tensor:
        return values

    first = run(scheduler, known, start, seed)
    other = run(scheduler, known, start, seed + 1)
    is_stochastic = not torch.equal(first.end, other.end) or any(
        not torch.equal(one.z, two.z) for one, two in zip(first.steps, other.steps, strict=False)
    )
    point = _point_mass(first, levels, values)
    unit = Mixture((0.0,), 1.0)
    unit_run = run(scheduler, unit.clean, levels[0].add_noise(unit.samples(SAMPLES), noise), seed)
    unit_noise = [_over(float(step.z.std()), float(step.level.std)) for step in unit_run.steps]
    at_one = float(levels.prior(torch.ones((), dtype=torch.float64)))
    std = float(levels[0].std)
    return Outcome(
        levels,
        is_stochastic,
        point,
        tuple(unit_noise),
        distances(scheduler, levels, extent, seed, eta=1.0 if is_stochastic else 0.0),
        _repeats(scheduler, start, seed),
        at_one / std,
        float(levels[0].sigma) / std,
    )


def _values(extent: float) -> Tensor:
    """Known values, evenly spaced over the range of the data: [SAMPLES, 1, 1, 1]."""
    return torch.linspace(-extent, extent, SAMPLES, dtype=torch.float64).view(-1, 1, 1, 1)


def _orthogonal(noise: Tensor, values: Tensor) -> Tensor:
    """Noise of std 1 that is uncorrelated with the values, so that the two can be told apart exactly."""
    noise = noise - values * (noise * values).sum() / values.square().sum()
    noise = noise - noise.mean()
    return noise / noise.std(correction=0)


def _point_mass(found: Run, levels: NoiseLevels, values: Tensor) -> PointMass:
    noise, signal = [], []
    for index, step in enumerate(found.steps):
        # What the level should be, whatever the step says of itself.
        level = levels[min(index + 1, len(levels) - 1)]
        part = (step.z * values).sum() / values.square().sum()
        rest = float((step.z - level.alpha * values).square().mean().sqrt())
        noise.append(_over(rest, float(level.sigma), 0.02 * float(level.std)))
        signal.append(abs(float(part) - float(level.alpha)) / max(float(level.std), 1e-12))
    told = [
        _over(
            float((call.z - call.level.alpha * values).square().mean().sqrt()),
            float(call.level.sigma),
            0.02 * float(call.level.std),
        )
        for call in found.calls
    ]
    altered = [
        min(
            (float((step.x0 - call.x0).abs().max()) for call in _calls_of(found, index)),
            default=0.0,
        )
        for index, step in enumerate(found.steps)
    ]
    end = found.steps[-1]
    final = levels[-1]
    residual = float((end.z - final.alpha * values).square().mean().sqrt())
    by_chance = 1.0 / float(values.square().sum().sqrt())
    return PointMass(tuple(noise), tuple(signal), by_chance, tuple(told), residual, max(altered, default=0.0))


def _calls_of(found: Run, index: int) -> list[Call]:
    """What was asked for during a step; of a sampler that asks at other times, everything."""
    return [call for call in found.calls if call.step == index] or list(found.calls)


def _over(found: float, true: float, floor: float = 0.0) -> float:
    """A ratio that stays near 1 where both are next to nothing."""
    ratio = (found + floor) / max(true + floor, 1e-12)
    return ratio if math.isfinite(ratio) else 1e6


def worst(ratios: tuple[float, ...]) -> float:
    """The largest distance of a ratio from 1."""
    return max((abs(ratio - 1.0) for ratio in ratios), default=0.0)


def distances(
    scheduler: Scheduler, levels: NoiseLevels, extent: float, seed: int, *, eta: float
) -> dict[str, tuple[float, float]]:
    """How far samples of known data lie from them, and how far a first-order sampler's on the same levels, in stds.

    Args:
        scheduler: The sampler.
        levels: That it visits.
        extent: As for `examine`.
        seed: As for `examine`.
        eta: Of the first-order sampler: 0 deterministic, 1 with the noise of the posterior.

    Returns:
        Both distances by the name of the data.
    """
    scale = extent / 3.0
    data = {
        "narrow Gaussian": Mixture((0.5 * scale,), 0.4 * scale),
        "wide Gaussian": Mixture((-0.2 * scale,), 1.4 * scale),
        "mixture of two": Mixture((-1.2 * scale, 1.2 * scale), 0.3 * scale),
    }
    noise = shuffled(normal_quantiles(SAMPLES), seed + 2).view(-1, 1, 1, 1)
    found = {}
    for name, one in data.items():
        # A sampler starts from data that are noised exactly, so what is left is its own error.
        start = levels[0].add_noise(shuffled(one.samples(SAMPLES), seed + 3), noise)
        alpha = max(float(levels[-1].alpha), 1e-6)
        end = run(scheduler, one.clean, start, seed).end / alpha
        plain = reference_end(levels, one.clean, start, eta=eta, seed=seed) / alpha
        distance = one.distance(end) if bool(end.isfinite().all()) else 1e6
        found[name] = (distance, max(one.distance(plain), 0.0))
    return found


def _repeats(scheduler: Scheduler, start: Tensor, seed: int) -> bool:
    """Whether a run equals the one before it, and one that another interrupts."""
    data = Mixture((0.3,), 0.7)
    few = start[:64]
    alone = run(scheduler, data.clean, few, seed)
    run(scheduler, data.clean, -0.5 * few, seed + 1)
    again = run(scheduler, data.clean, few, seed)
    return all(torch.equal(one.z, two.z) for one, two in zip(alone.steps, again.steps, strict=False)) and len(
        alone.steps
    ) == len(again.steps)
