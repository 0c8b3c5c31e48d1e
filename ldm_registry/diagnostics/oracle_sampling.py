"""ORA: the sampler by itself, with exact denoisers in place of a network. No weights are involved."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.known_data import Mixture, normal_quantiles, shuffled
from ldm_registry.diagnostics.level_sequence import level_metrics, level_suspicions
from ldm_registry.diagnostics.probe import is_pixel_space
from ldm_registry.diagnostics.sampler_run import Run, reference_end, run
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import NoiseLevel, NoiseLevels, Scheduler
from ldm_registry.vocabulary import Kind

SAMPLES = 2048
EXACT = 0.01
"""A deterministic sampler follows a point mass to rounding; this is a hundredth of the noise."""
STATISTICAL = 0.08
"""Three standard errors of a std over `SAMPLES`, and room for samplers that churn."""
SIGNAL_STATISTICAL = 0.06
"""Four standard errors over `SAMPLES` values of std 1.7."""
RESIDUAL_DECLARED = 0.035
"""Noise that a sampler may say it leaves: the first step of Stable Diffusion's schedule has 0.029."""
DISTANCE = 0.03
OVER_FIRST_ORDER = 1.6
SCHEDULER = frozenset({Kind.SCHEDULER})


@dataclass(frozen=True, slots=True)
class PointMass:
    """How a sampler carries known values and known noise.

    Attributes:
        noise: For each step, the noise in the state over what its level says; 1 is right.
        signal: Error of the share that the known values have in the state, in stds of the state.
        told: For each call, the same noise over that of the level told to the denoiser.
        residual: Noise in the last state.
        altered: Largest difference between the clean estimate that a step used and those it was given.
    """

    noise: tuple[float, ...]
    signal: tuple[float, ...]
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
        return SIGNAL_STATISTICAL if self.is_stochastic else EXACT

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
        errors = [_worst(self.point.noise)]
        if self.is_stochastic:
            errors.append(_worst(self.unit_noise))
        return min(errors)


@torch.inference_mode()
def measure_oracle_sampling(subject: Subject) -> Measurement:
    """Sample known data with their exact denoiser, and look at every state on the way."""
    begin = time.perf_counter()
    title = "Does the sampler, given an exact denoiser, sample the data?"
    try:
        found = examine(
            subject.pipe.scheduler, extent=1.0 if is_pixel_space(subject) else 3.0, seed=subject.seed
        )
    except (LdmError, RuntimeError, ValueError, ArithmeticError, IndexError, TypeError) as error:
        fault = Suspicion(SCHEDULER, "sampler fails on an exact denoiser", 0.95, str(error).split("\n")[0])
        return Measurement("ORA", title, SCHEDULER, suspicions=(fault,), seconds=time.perf_counter() - begin)
    schedule = subject.pipe.denoiser.training_schedule
    return Measurement(
        "ORA",
        title,
        SCHEDULER,
        (*_metrics(found), *level_metrics(found.levels, schedule)),
        (*suspicions(found), *level_suspicions(found.levels, schedule)),
        curves=(_curve(found),),
        seconds=time.perf_counter() - begin,
    )


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
        _distances(scheduler, levels, extent, seed, eta=1.0 if is_stochastic else 0.0),
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
            (float((step.x0 - call.x0).abs().max()) for call in found.calls if call.step == index),
            default=math.inf,
        )
        for index, step in enumerate(found.steps)
    ]
    end = found.steps[-1]
    final = levels[-1]
    residual = float((end.z - final.alpha * values).square().mean().sqrt())
    return PointMass(tuple(noise), tuple(signal), tuple(told), residual, max(altered, default=math.inf))


def _over(found: float, true: float, floor: float = 0.0) -> float:
    """A ratio that stays near 1 where both are next to nothing."""
    ratio = (found + floor) / max(true + floor, 1e-12)
    return ratio if math.isfinite(ratio) else 1e6


def _worst(ratios: tuple[float, ...]) -> float:
    return max((abs(ratio - 1.0) for ratio in ratios), default=0.0)


def _distances(
    scheduler: Scheduler, levels: NoiseLevels, extent: float, seed: int, *, eta: float
) -> dict[str, tuple[float, float]]:
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


def _metrics(found: Outcome) -> Iterator[Metric]:
    within = Healthy(None, found.tolerance, "a point mass keeps its noise under every exact step")
    yield Metric("noise_error", found.worst_noise, "largest relative error of the noise in a state", within)
    yield Metric(
        "signal_error",
        found.worst_signal,
        "largest error of the signal in a state, in its stds",
        Healthy(None, found.signal_tolerance, "theory"),
    )
    yield Metric(
        "told_error",
        _told_error(found),
        "largest relative difference between the noise in a state and the level told with it",
        within,
    )
    declared = float(found.levels[-1].sigma)
    yield Metric(
        "residual_sigma",
        found.point.residual,
        "noise that is left at the end",
        Healthy(None, max(RESIDUAL_DECLARED, 0.0), "sampling ends without noise"),
    )
    yield Metric("declared_final_sigma", declared, "noise that it says is left at the end")
    yield Metric(
        "altered_x0",
        found.point.altered,
        "largest change of a clean estimate inside the range of the data",
        Healthy(None, 1e-3, "a sampler uses what it is given"),
    )
    yield Metric(
        "prior_std_over_marginal",
        found.prior,
        "std of the start over that of data at the first level",
        Healthy(0.98 * found.prior_low, 1.02, "between noise alone and noise with signal"),
    )
    for name, (distance, plain) in found.distances.items():
        yield Metric(
            f"distance_{name.replace(' ', '_').lower()}",
            distance,
            f"Wasserstein distance of samples from the data ({name}), in stds",
            Healthy(None, _allowed(found, plain), "a first-order sampler on the same levels"),
        )
    yield Metric(
        "runs_repeat",
        float(found.repeats),
        "1 where a second run equals the first",
        Healthy(1.0, 1.0, "theory"),
    )


def _told_error(found: Outcome) -> float:
    # The noise that a stochastic sampler adds is judged by `worst_noise`; here only what it says of it counts.
    told = _worst(found.point.told)
    return min(told, found.worst_noise) if found.is_stochastic else told


def _allowed(found: Outcome, plain: float) -> float:
    slack = DISTANCE + (0.04 if found.is_stochastic else 0.0)
    return slack + OVER_FIRST_ORDER * plain


def suspicions(found: Outcome) -> Iterator[Suspicion]:
    """What speaks against the sampler."""
    point = found.point
    declared = float(found.levels[-1].sigma)
    if not found.prior_low * 0.98 <= found.prior <= 1.02:
        text = (
            f"sampling starts from noise of {found.prior:.3g} times the std that data have at the first level"
        )
        yield Suspicion(
            SCHEDULER,
            "initial noise is not scaled to the first level",
            _strength(abs(math.log(max(found.prior, 1e-6))), 0.02),
            text,
        )
    if point.altered > 1e-3:
        text = f"clean estimates within the range of the data are changed by up to {point.altered:.3g}"
        yield Suspicion(
            SCHEDULER, "clean estimate is clipped or altered", _strength(point.altered, 0.02), text
        )
    signal = found.worst_signal
    noise = found.worst_noise
    if point.residual - declared > 0.01:
        text = f"noise of std {point.residual:.3g} is left at the end, where {declared:.3g} is declared"
        yield Suspicion(
            SCHEDULER, "residual noise after the last step", _strength(point.residual, 0.01), text
        )
    elif point.residual > RESIDUAL_DECLARED:
        text = f"the last level still has noise of std {point.residual:.3g}"
        yield Suspicion(
            SCHEDULER, "sampling stops before the noise is gone", _strength(point.residual, 0.03), text
        )
    if noise > found.tolerance:
        index = max(range(len(point.noise)), key=lambda step: abs(point.noise[step] - 1.0))
        text = f"after step {index} a state has {point.noise[index]:.3g} times the noise of its level"
        fault = (
            "adds the wrong amount of noise" if found.is_stochastic else "steps do not land on their levels"
        )
        yield Suspicion(SCHEDULER, fault, _strength(noise, found.tolerance), text)
    elif _told_error(found) > found.tolerance:
        text = (
            f"the noise in a state differs by {_told_error(found):.2g} (relative) from the level told with it"
        )
        yield Suspicion(
            SCHEDULER,
            "denoiser is told another level than the state has",
            _strength(_told_error(found), found.tolerance),
            text,
        )
    if signal > found.signal_tolerance:
        text = f"the signal in a state differs by up to {signal:.3g} of its std from that of its level"
        yield Suspicion(
            SCHEDULER, "steps scale the signal wrongly", _strength(signal, found.signal_tolerance), text
        )
    yield from _about_data(found)
    if not found.repeats:
        text = "two runs from the same noise differ"
        yield Suspicion(SCHEDULER, "history is kept from one run to the next", 0.95, text)


def _about_data(found: Outcome) -> Iterator[Suspicion]:
    excess = {name: distance / _allowed(found, plain) for name, (distance, plain) in found.distances.items()}
    worst = max(excess, key=lambda name: excess[name])
    if excess[worst] > 1.0:
        distance, plain = found.distances[worst]
        text = (
            f"samples of a {worst} lie {distance:.3g} stds from it; a first-order sampler on the same levels ends at "
            f"{plain:.3g}"
        )
        yield Suspicion(
            SCHEDULER, "does not sample known data", _strength(distance, _allowed(found, plain)), text
        )


def _strength(found: float, bound: float) -> float:
    """0.5 at twice the bound, rising to 0.97."""
    return min(0.97, max(0.3, 1.0 - bound / max(found, 1e-9)))


def _curve(found: Outcome) -> Curve:
    declared = [(float(index), float(level.sigma)) for index, level in enumerate(found.levels)]
    measured = [
        (float(index + 1), ratio * (float(level.sigma) + 0.02 * float(level.std)) - 0.02 * float(level.std))
        for index, (ratio, level) in enumerate(zip(found.point.noise, list(found.levels)[1:], strict=False))
    ]
    lines = {"declared": tuple(declared), "in the state": tuple(measured)}
    return Curve("Noise on the way", "steps taken", "sigma", lines)
