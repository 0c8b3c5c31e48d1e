"""ORA: the sampler by itself, with exact denoisers in place of a network. No weights are involved."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.illustrations import CARRIED, carried
from ldm_registry.diagnostics.level_sequence import level_metrics, level_suspicions
from ldm_registry.diagnostics.probe import is_pixel_space
from ldm_registry.diagnostics.sampler_convergence import LEAST_ORDER, Convergence, convergence
from ldm_registry.diagnostics.sampler_outcome import Outcome, examine
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.vocabulary import Kind

RESIDUAL_DECLARED = 0.035
"""Noise that a sampler may say it leaves: the first step of Stable Diffusion's schedule has 0.029."""
LEFT = 0.002
"""Noise at the end beyond what is declared that rounding does not explain."""
SCHEDULER = frozenset({Kind.SCHEDULER})


@torch.inference_mode()
def measure_oracle_sampling(subject: Subject) -> Measurement:
    """Sample known data with their exact denoiser, and look at every state on the way."""
    begin = time.perf_counter()
    title = "Does the sampler, given an exact denoiser, sample the data?"
    extent, scheduler = 1.0 if is_pixel_space(subject) else 3.0, subject.pipe.scheduler
    try:
        found = examine(scheduler, extent=extent, seed=subject.seed)
    except (LdmError, RuntimeError, ValueError, ArithmeticError, IndexError, TypeError) as error:
        fault = Suspicion(SCHEDULER, "sampler fails on an exact denoiser", 0.95, str(error).split("\n")[0])
        return Measurement("ORA", title, SCHEDULER, suspicions=(fault,), seconds=time.perf_counter() - begin)
    schedule = subject.pipe.denoiser.training_schedule
    broken = [*suspicions(found), *level_suspicions(found.levels, schedule)]
    name = worst_data(found)
    finer: Convergence | None = None
    if found.excess(name) > 1.0:
        finer = convergence(subject.pipe, found, name, extent=extent, seed=subject.seed)
        is_coarse = finer is not None and finer.is_convergent and not broken
        broken.append(_too_few_steps(finer, name) if finer and is_coarse else misses_data(found, name))
    return Measurement(
        "ORA",
        title,
        SCHEDULER,
        (*_metrics(found), *_order(finer), *level_metrics(found.levels, schedule)),
        tuple(broken),
        pictures=_pictures(subject, extent),
        curves=(_curve(found),),
        seconds=time.perf_counter() - begin,
    )


def _pictures(subject: Subject, extent: float) -> tuple[Picture, ...]:
    images = subject.images[:CARRIED]
    try:
        drawn = carried(subject.pipe.scheduler, images, subject.noise(images), extent, subject.seed)
    except (LdmError, RuntimeError, ValueError, ArithmeticError, IndexError, TypeError):
        return ()  # a sampler that takes no images of this shape is not broken for that
    return () if drawn is None else (drawn,)


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
        found.told_error,
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
    for name, (distance, _) in found.distances.items():
        yield Metric(
            f"distance_{name.replace(' ', '_').lower()}",
            distance,
            f"Wasserstein distance of samples from the data ({name}), in stds",
            Healthy(None, found.allowed(name), "a first-order sampler on the same levels"),
        )
    yield Metric(
        "runs_repeat",
        float(found.repeats),
        "1 where a second run equals the first",
        Healthy(1.0, 1.0, "theory"),
    )


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
    steps, promised = len(point.noise), len(found.levels) - 1
    if steps < promised:
        text = f"{steps} steps are made where the levels say {promised}"
        yield Suspicion(SCHEDULER, "ends before its last level", 0.95, text)
    signal = found.worst_signal
    if point.residual - declared > LEFT:
        text = f"noise of std {point.residual:.3g} is left at the end, where {declared:.3g} is declared"
        yield Suspicion(
            SCHEDULER, "residual noise after the last step", _strength(point.residual - declared, LEFT), text
        )
    elif point.residual > RESIDUAL_DECLARED:
        text = f"the last level still has noise of std {point.residual:.3g}"
        yield Suspicion(
            SCHEDULER, "sampling stops before the noise is gone", _strength(point.residual, 0.03), text
        )
    noise = found.worst_noise_on_the_way
    if noise > found.tolerance:
        index = max(range(len(point.noise) - 1), key=lambda step: abs(point.noise[step] - 1.0), default=0)
        text = f"after step {index} a state has {point.noise[index]:.3g} times the noise of its level"
        fault = (
            "adds the wrong amount of noise" if found.is_stochastic else "steps do not land on their levels"
        )
        yield Suspicion(SCHEDULER, fault, _strength(noise, found.tolerance), text)
    elif found.told_error > found.tolerance:
        text = (
            f"the noise in a state differs by {found.told_error:.2g} (relative) from the level told with it"
        )
        yield Suspicion(
            SCHEDULER,
            "denoiser is told another level than the state has",
            _strength(found.told_error, found.tolerance),
            text,
        )
    if signal > found.signal_tolerance:
        text = f"the signal in a state differs by up to {signal:.3g} of its std from that of its level"
        yield Suspicion(
            SCHEDULER, "steps scale the signal wrongly", _strength(signal, found.signal_tolerance), text
        )
    if not found.repeats:
        text = "two runs from the same noise differ"
        yield Suspicion(SCHEDULER, "history is kept from one run to the next", 0.95, text)


def worst_data(found: Outcome) -> str:
    """The name of the known data that samples miss by the most, beside what is allowed."""
    return max(found.distances, key=found.excess)


def misses_data(found: Outcome, name: str) -> Suspicion:
    """What samples that lie too far from known data say against the sampler."""
    distance, plain = found.distances[name]
    text = (
        f"samples of a {name} lie {distance:.3g} stds from it; a first-order sampler on the same levels ends at "
        f"{plain:.3g}"
    )
    return Suspicion(SCHEDULER, "does not sample known data", _strength(distance, found.allowed(name)), text)


def _too_few_steps(finer: Convergence, name: str) -> Suspicion:
    far = ", ".join(
        f"{distance:.2g} with {steps}" for steps, distance in zip(finer.steps, finer.distances, strict=True)
    )
    text = (
        f"samples of a {name} lie {far} steps from it, in stds: the sampler is right, its steps are too wide"
    )
    return Suspicion(SCHEDULER, "too few steps for its noise levels", 0.6, text, is_quality=True)


def _order(finer: Convergence | None) -> Iterator[Metric]:
    if finer is not None:
        yield Metric(
            "convergence_order",
            finer.order,
            f"in the step width, of the distance from known data over {finer.steps[0]} to {finer.steps[-1]} steps",
            Healthy(LEAST_ORDER, None, "consistent integrators have one of at least 1"),
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
