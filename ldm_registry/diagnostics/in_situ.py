"""SITU: the tensors that cross the interfaces of one real run, against what they should be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.probe import declared_statistics, is_pixel_space
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.pipeline import Decoded, DenoiserCalled, Event, Started, Stepped
from ldm_registry.vocabulary import STAGES, Kind

INPUT_RANGE = (0.75, 1.35)
"""RMS of the denoiser's input over that of noised data; guidance widens it."""
NOISE_RANGE = (0.75, 1.3)
END_RANGE = (0.5, 1.8)
"""Few steps blur, guidance exaggerates: four steps in pixel space end at 0.57."""
PLATEAU = 0.005
TOLD_NATS = 0.75
"""Churn raises a level by at most 2 ln sqrt 2 = 0.69 nats."""
NOISY = 0.3
SNAPSHOTS = 5


@dataclass(frozen=True, slots=True)
class Capture:
    """One run, in numbers.

    Attributes:
        start: RMS of the first state over that of data at the first level.
        inputs: For each call, RMS of the denoiser's input over that of noised data.
        noise: For each call at a noisy level, RMS of the noise that the clean estimate implies; 1 is right.
        log_snrs: Of the calls, nats.
        noise_log_snrs: Of those that `noise` is of.
        told: Largest distance of a step's first call from the level that the sampler lists, nats.
        plateau: Largest share of a clean estimate that sits exactly at its largest or smallest value.
        reach: Largest clean estimate over the largest latent of the images.
        end_mean: Largest mean of a channel of the last latent, off the expected one, in expected stds.
        end_std: Std of the last latent over the expected one.
        finite: Share of values that are finite.
        snapshots: [SNAPSHOTS, c, h, w], clean estimates on the way.
    """

    start: float
    inputs: tuple[float, ...]
    noise: tuple[float, ...]
    log_snrs: tuple[float, ...]
    noise_log_snrs: tuple[float, ...]
    told: float
    plateau: float
    reach: float
    end_mean: float
    end_std: float
    finite: float
    snapshots: Tensor


@torch.inference_mode()
def measure_in_situ(subject: Subject) -> Measurement:
    """Run the pipeline once and look at everything that goes from one stage to the next."""
    begin = time.perf_counter()
    found = capture(subject)
    return Measurement(
        "SITU",
        "Do the stages hand one another what they should?",
        frozenset(STAGES),
        tuple(_metrics(found)),
        tuple(_suspicions(found)),
        pictures=tuple(_pictures(subject, found)),
        curves=(_curve(found),),
        seconds=time.perf_counter() - begin,
    )


def capture(subject: Subject) -> Capture:
    """One real run of the pipeline."""
    count = 1 if subject.quick else 2
    events = list(subject.pipe.trace(count, seed=subject.seed, synchronise=False))
    started = next(event for event in events if isinstance(event, Started))
    calls = [event for event in events if isinstance(event, DenoiserCalled)]
    steps = [event for event in events if isinstance(event, Stepped)]
    decoded = next(event for event in events if isinstance(event, Decoded))
    mean, std = declared_statistics(subject)
    power = float((mean.square() + std.square()).mean())
    noisy = [call for call in calls if float(call.level.normalised().sigma) > NOISY]
    values = [decoded.latent, *(call.prediction for call in calls)]
    return Capture(
        _rms(started.z) / max(_expected(started.levels[0], power), 1e-12),
        tuple(_rms(call.z) / _expected(call.level.normalised(), power) for call in calls),
        tuple(_implied(call) for call in noisy),
        tuple(_nats(call.level) for call in calls),
        tuple(_nats(call.level) for call in noisy),
        _told(events, started),
        max((_plateau(step.x0) for step in steps), default=0.0),
        max((float(step.x0.abs().max()) for step in steps), default=0.0)
        / max(float(subject.latents.abs().max()), 1e-6),
        float(((decoded.latent.float().cpu().mean((0, 2, 3)) - mean.flatten()) / std.flatten()).abs().max()),
        float((decoded.latent.float().cpu().std((0, 2, 3)) / std.flatten()).mean()),
        sum(float(value.isfinite().float().mean()) for value in values) / len(values),
        _snapshots(steps),
    )


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt().nan_to_num(1e6, 1e6))


def _expected(level: NoiseLevel, power: float) -> float:
    """RMS of data of a mean square, noised to a level."""
    return float((level.alpha**2 * power + level.sigma**2).sqrt())


def _implied(call: DenoiserCalled) -> float:
    level = call.level.normalised()
    alpha, sigma = level.scales(call.z)
    return _rms((call.z - alpha * call.x0) / sigma)


def _nats(level: NoiseLevel) -> float:
    return max(min(float(level.log_snr), 60.0), -60.0)


def _told(events: Sequence[Event], started: Started) -> float:
    worst, index, is_first = 0.0, 0, True
    for event in events:
        if isinstance(event, DenoiserCalled) and is_first and index < len(started.levels):
            worst = max(worst, abs(_nats(event.level) - _nats(started.levels[index])))
            is_first = False
        if isinstance(event, Stepped):
            index, is_first = index + 1, True
    return worst


def _plateau(x0: Tensor) -> float:
    """Share of values that equal the largest or the smallest; a limit leaves many, chance leaves one."""
    return max(float((x0 == edge).float().mean()) for edge in (x0.max(), x0.min())) - 1.0 / x0.numel()


def _snapshots(steps: Sequence[Stepped]) -> Tensor:
    if not steps:
        return torch.empty(0)
    chosen = torch.linspace(0, len(steps) - 1, min(SNAPSHOTS, len(steps))).round().int().tolist()
    return torch.stack([steps[index].x0[0].float().cpu() for index in chosen])


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 1.0


def _farthest(values: Sequence[float]) -> float:
    """The value that lies farthest from 1, by ratio."""
    return max(values, key=lambda value: max(value, 1.0 / max(value, 1e-6)), default=1.0)


def _metrics(found: Capture) -> Iterator[Metric]:
    yield Metric("finite_share", found.finite, "share of finite values", Healthy(1.0, 1.0, "theory"))
    yield Metric(
        "start_rms",
        found.start,
        "RMS of the first state over that of data there",
        Healthy(0.8, 1.25, "theory"),
    )
    yield Metric(
        "input_rms",
        _farthest(found.inputs),
        "RMS of the denoiser's input over that of noised data, where it is farthest off",
        Healthy(*INPUT_RANGE, "a normalised input has 1"),
    )
    yield Metric(
        "implied_noise",
        _middle(found.noise),
        "RMS of the noise that clean estimates imply, median over noisy levels",
        Healthy(*NOISE_RANGE, "noise has 1"),
    )
    yield Metric(
        "told_nats",
        found.told,
        "distance of levels told from levels listed",
        Healthy(None, TOLD_NATS, "theory"),
    )
    yield Metric(
        "x0_plateau",
        found.plateau,
        "share of a clean estimate that sits at its extreme value",
        Healthy(None, PLATEAU, "nothing is clipped"),
    )
    yield Metric("x0_reach", found.reach, "largest clean estimate over the largest latent of the images")
    yield Metric("end_mean", found.end_mean, "mean of the last latent, off the expected one, in stds")
    yield Metric(
        "end_std",
        found.end_std,
        "std of the last latent over the expected one",
        Healthy(*END_RANGE, "contract"),
    )


def _suspicions(found: Capture) -> Iterator[Suspicion]:
    scheduler, denoiser = frozenset({Kind.SCHEDULER}), frozenset({Kind.DENOISER})
    either = scheduler | denoiser
    if not 0.8 <= found.start <= 1.25:
        text = f"the first state has {found.start:.2f} times the RMS of data at the first level"
        yield Suspicion(scheduler, "initial noise is not scaled to the first level", 0.8, text)
    worst = _farthest(found.inputs)
    if not INPUT_RANGE[0] <= worst <= INPUT_RANGE[1]:
        text = f"the denoiser's input has {worst:.2f} times the RMS of noised data"
        yield Suspicion(either, "input of the denoiser is not scaled as it should be", 0.5, text)
    implied = _middle(found.noise)
    if not NOISE_RANGE[0] <= implied <= NOISE_RANGE[1]:
        text = f"clean estimates imply noise of RMS {implied:.2f}, where 1 was told"
        yield Suspicion(either, "clean estimates do not fit the noise level", 0.5, text)
    if found.told > TOLD_NATS:
        text = f"the denoiser is told levels {found.told:.2f} nats off those that the sampler lists"
        yield Suspicion(scheduler, "denoiser is told another level than the state has", 0.7, text)
    if found.plateau > PLATEAU:
        text = f"{found.plateau:.1%} of a clean estimate sit at its extreme value"
        yield Suspicion(scheduler, "clean estimate is clipped or altered", 0.5, text)
    if not END_RANGE[0] <= found.end_std <= END_RANGE[1]:
        text = f"the latent handed to the decoder has {found.end_std:.2f} times the expected std"
        yield Suspicion(either, "sampled latents do not have the statistics of the training", 0.4, text)


def _pictures(subject: Subject, found: Capture) -> Iterator[Picture]:
    if not len(found.snapshots) or not bool(found.snapshots.isfinite().all()):
        return
    images = found.snapshots if is_pixel_space(subject) else subject.decode(found.snapshots)
    strip = torch.cat(list(images.clamp(-1.0, 1.0)), dim=-1)
    colours = strip[:3] if len(strip) >= 3 else strip[:1].expand(3, -1, -1)
    yield Picture(
        "Clean estimate along the trajectory",
        f"{len(images)} decoded estimates of one image, from the first step on the left to the last on the right",
        colours.contiguous(),
    )


def _curve(found: Capture) -> Curve:
    return Curve(
        "What the denoiser was given",
        "log-SNR (nats)",
        "ratio to the expected value",
        {
            "RMS of the input": tuple(zip(found.log_snrs, found.inputs, strict=True)),
            "implied noise": tuple(zip(found.noise_log_snrs, found.noise, strict=True)),
        },
    )
