"""DEN: how well the denoiser denoises, one forward pass at each noise level."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.golden_output import GOLDEN_SAME, golden_distance
from ldm_registry.diagnostics.illustrations import LATENT_RANGE, by_level
from ldm_registry.diagnostics.probe import (
    Probe,
    affordable,
    is_pixel_space,
    mse_per_image,
    probes,
    vp_level,
    within,
)
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.wiener import Wiener
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind, Prediction

LOG_SNRS = tuple(float(value) for value in range(-4, 5))
STREAM = 11
FLOOR = 0.25
"""Of the Wiener error: added to both sides of a ratio, so that an exact oracle's vanishing errors do not decide."""
WORSE_THAN_RECORDED = 1.35
"""Images of one set differ: the healthy checkpoints lie within 1.2 on any 16 of them."""
WORSE_THAN_WIENER = 1.25
GOLDEN_OTHER = 0.08
DRAWN = 5
"""Levels in the picture, at most."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared errors of x0 at each level.

    Attributes:
        log_snrs: Nats.
        own: Of the denoiser as it is used.
        best: Of the best reading of the same output.
        wiener: Of the Gaussian-optimal denoiser of the measured covariance.
        zero: Of answering the mean of each channel.
        recorded: Of the contract; empty where nothing was recorded.
        spread: Standard error of `own` over images, relative.
        probe: What it was measured on.
    """

    log_snrs: tuple[float, ...]
    own: tuple[float, ...]
    best: tuple[float, ...]
    wiener: tuple[float, ...]
    zero: tuple[float, ...]
    recorded: tuple[float, ...]
    spread: float
    probe: Probe

    def over(self, reference: tuple[float, ...], own: tuple[float, ...] | None = None) -> float:
        """Geometric mean over levels of the error over another."""
        logs = [
            math.log((mine + FLOOR * wiener) / (other + FLOOR * wiener))
            for mine, other, wiener in zip(own or self.own, reference, self.wiener, strict=True)
        ]
        return math.exp(min(sum(logs) / len(logs), 50.0))


@torch.inference_mode()
def measure_denoising_error(subject: Subject) -> Measurement:
    """Noise known latents, denoise them once, and compare with what was recorded and with theory."""
    begin = time.perf_counter()
    errors = denoising_errors(subject)
    golden = golden_distance(subject)
    return Measurement(
        "DEN",
        f"Does the denoiser denoise as well as it should? (on {errors.probe.about})",
        frozenset({Kind.DENOISER}),
        tuple(_metrics(errors, golden)),
        tuple(_suspicions(errors, golden)),
        pictures=tuple(_pictures(subject, errors)),
        curves=(_curve(errors),),
        seconds=time.perf_counter() - begin,
    )


def denoising_errors(subject: Subject) -> Errors:
    """Errors on whichever suits the denoiser better: the encoder's latents, or the same with corrected statistics.

    So a scaled or shifted encoder does not condemn the denoiser, nor a correction that is not called for.
    """
    count = min(affordable(subject, 64, least=6 if subject.quick else 12, share=4.0), len(subject.images))
    log_snrs = within(subject, LOG_SNRS[::2] if subject.quick else LOG_SNRS)
    found = [_errors(subject, probe, log_snrs) for probe in probes(subject, count, STREAM)]
    return min(found, key=lambda errors: errors.over(errors.wiener))


def _errors(subject: Subject, probe: Probe, log_snrs: tuple[float, ...]) -> Errors:
    wiener = Wiener.of(subject.latents if not probe.is_corrected else probe.latents)
    centre = probe.latents.mean((0, 2, 3), keepdim=True)
    zero = float(mse_per_image(centre.expand_as(probe.latents), probe.latents).mean())
    own, best, gaussian, spread = [], [], [], []
    for log_snr in log_snrs:
        level = vp_level(log_snr)
        z = probe.at(level)
        readings = _readings(subject, probe, z, level)
        mine = readings[subject.pipe.denoiser.prediction]
        own.append(float(mine.mean()))
        best.append(min(float(error.mean()) for error in readings.values()))
        gaussian.append(float(mse_per_image(wiener.denoise(z, level), probe.latents).mean()))
        spread.append(
            float(mine.std()) / math.sqrt(len(mine)) / max(own[-1], 1e-12) if len(mine) > 1 else 0.0
        )
    recorded = _recorded(subject, log_snrs)
    return Errors(
        log_snrs, tuple(own), tuple(best), tuple(gaussian), (zero,) * len(own), recorded, max(spread), probe
    )


def _readings(subject: Subject, probe: Probe, z: Tensor, level: NoiseLevel) -> Mapping[Prediction, Tensor]:
    output = torch.cat(
        [
            subject.predict(
                part, level, {name: value[start : start + len(part)] for name, value in told.items()}
            )
            for told in (probe.condition,)
            for start, part in _batches(z)
        ]
    )
    return {
        prediction: mse_per_image(to_x0(prediction, output, z, level), probe.latents)
        for prediction in Prediction
    }


def _batches(z: Tensor, size: int = 32) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(z), size):
        yield start, z[start : start + size]


def _recorded(subject: Subject, log_snrs: tuple[float, ...]) -> tuple[float, ...]:
    test = subject.recorded(Kind.DENOISER)
    known = {one.log_snr: one.x0_mse for one in test.denoising_error} if test else {}
    return tuple(known[value] for value in log_snrs) if all(value in known for value in log_snrs) else ()


def _metrics(errors: Errors, golden: float | None) -> Iterator[Metric]:
    if errors.recorded:
        yield Metric(
            "x0_error_over_recorded",
            errors.over(errors.recorded),
            "error of the clean estimate over the one recorded when the checkpoint was saved",
            Healthy(
                None, WORSE_THAN_RECORDED * (1.0 + errors.spread), "contract, and the spread over images"
            ),
        )
    yield Metric(
        "x0_error_over_wiener",
        errors.over(errors.wiener),
        "the same over that of the Gaussian-optimal denoiser of these latents",
        Healthy(None, WORSE_THAN_WIENER, "a trained network beats a linear filter"),
    )
    yield Metric(
        "x0_error_over_zero",
        errors.over(errors.zero),
        "the same over that of answering the mean",
        Healthy(None, 0.8, "an answer that says nothing has 1"),
    )
    if golden is not None:
        yield Metric(
            "golden_distance",
            golden,
            "relative difference from the outputs that were recorded when the checkpoint was saved",
            Healthy(None, GOLDEN_OTHER, "contract; half precision stays below 0.02"),
        )


def _suspicions(errors: Errors, golden: float | None) -> Iterator[Suspicion]:
    denoiser = frozenset({Kind.DENOISER})
    if golden is not None and golden > GOLDEN_OTHER:
        yield Suspicion(
            denoiser,
            "network does not compute what it did when it was saved",
            min(0.97, 0.6 + golden),
            f"its output differs by {golden:.3g} (relative) from what the contract recorded for the same input",
        )
    over_zero, over_wiener = errors.over(errors.zero), errors.over(errors.wiener)
    readable = errors.over(errors.wiener, errors.best)
    evidence = (
        f"x0 error {over_wiener:.2f} times the Wiener denoiser's and {over_zero:.2f} times that of the mean"
    )
    if errors.recorded:
        ratio = errors.over(errors.recorded)
        bound = WORSE_THAN_RECORDED * (1.0 + errors.spread)
        if ratio > bound:
            yield from _worse_than_recorded(errors, golden, ratio, readable)
            return
        if over_wiener > WORSE_THAN_WIENER:
            yield Suspicion(
                denoiser, "undertrained or too small", 0.5, f"{evidence}, as recorded", is_quality=True
            )
        return
    if over_zero > 1.1:
        yield Suspicion(denoiser, "estimates of x0 are worse than none", min(0.95, 0.5 * over_zero), evidence)
    elif over_wiener > WORSE_THAN_WIENER:
        yield Suspicion(denoiser, "undertrained or too small", 0.5, evidence, is_quality=True)


def _worse_than_recorded(
    errors: Errors, golden: float | None, ratio: float, readable: float
) -> Iterator[Suspicion]:
    evidence = f"x0 error {ratio:.2f} times the recorded one on {errors.probe.about}"
    strength = min(0.95, 0.4 + 0.5 * (ratio / WORSE_THAN_RECORDED - 1.0))
    if golden is None or golden > GOLDEN_SAME:
        yield Suspicion(
            frozenset({Kind.DENOISER}), "denoises worse than when it was saved", strength, evidence
        )
    elif readable < 0.7 * errors.over(errors.wiener):
        yield Suspicion(
            frozenset({Kind.DENOISER}),
            "output is read as another prediction than it is",
            strength,
            f"{evidence}; the raw outputs are those recorded, and another reading of them fits",
        )
    else:
        # The network is what it was: it is its input that is not.
        yield Suspicion(
            frozenset({Kind.ENCODER}),
            "latents are not those that the denoiser was trained on",
            0.8 * strength,
            f"{evidence}, although its outputs on recorded inputs are those recorded",
        )


def _pictures(subject: Subject, errors: Errors) -> Iterator[Picture]:
    """One latent at a few levels, with what the denoiser makes of it."""
    one = errors.probe.first(1)
    chosen = errors.log_snrs[:: math.ceil(len(errors.log_snrs) / DRAWN)]
    states = {log_snr: one.at(vp_level(log_snr)) for log_snr in chosen}
    estimates = {
        log_snr: subject.clean(z, vp_level(log_snr), one.condition)[0] for log_snr, z in states.items()
    }
    extent = 1.0 if is_pixel_space(subject) else LATENT_RANGE
    drawn = by_level({level: z[0] for level, z in states.items()}, estimates, one.latents[0], extent)
    if drawn is not None:
        yield drawn


def _curve(errors: Errors) -> Curve:
    lines = {
        "this denoiser": errors.own,
        "Wiener": errors.wiener,
        "answering the mean": errors.zero,
        "recorded": errors.recorded,
    }
    return Curve(
        "Error of the clean estimate",
        "log-SNR (nats)",
        "mean squared error of x0",
        {name: tuple(zip(errors.log_snrs, values, strict=True)) for name, values in lines.items() if values},
        log_y=True,
    )
