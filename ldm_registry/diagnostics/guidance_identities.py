"""CFG: what guidance promises, and whether a condition helps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.probe import Probe, affordable, mse_per_image, probes, vp_level
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.guidance import guided, null_condition
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.pipeline import placement
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind

STREAM = 41
LOG_SNR = -2.0
NOISY_LOG_SNR = -4.0
DENOISER = frozenset({Kind.DENOISER})
TITLE = "Does guidance keep its identities, and does the condition help?"
LINEAR = 1e-2
HEARD = 1e-3
HARM = 1.08
STANDARD_ERRORS = 2.0
"""Error with the condition over that without it: no healthy checkpoint lies above 1."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out.

    Attributes:
        linearity: Largest relative distance of guided outputs from the line through both predictions.
        nearest_class: Smallest relative difference between any class and no class.
        shuffled: Relative change of the output when the labels are shuffled.
        gain: Error of x0 with the condition over that without it.
        gain_error: Standard error of its logarithm over images.
    """

    linearity: float
    nearest_class: float
    shuffled: float
    gain: float
    gain_error: float


@torch.inference_mode()
def measure_guidance(subject: Subject) -> Measurement:
    """Compare the denoiser with and without its condition, and guided at several scales."""
    begin = time.perf_counter()
    denoiser = subject.pipe.denoiser
    names = [
        name
        for name, given in denoiser.conditioning.items()
        if given.classes is not None and given.null is not None and name in subject.condition
    ]
    if not names:
        reason = "the denoiser takes no class, or the classes of the images are not known"
        return Measurement("CFG", TITLE, DENOISER, skipped=reason)
    found = findings(subject, names[0])
    return Measurement(
        "CFG",
        TITLE,
        DENOISER,
        tuple(_metrics(found)),
        tuple(_suspicions(found)),
        seconds=time.perf_counter() - begin,
    )


def findings(subject: Subject, name: str) -> Findings:
    """Measure at one level.

    Args:
        subject: Gives denoiser, images and labels.
        name: Of the class label among the conditions.
    """
    count = min(affordable(subject, 64, least=8, share=4.0), len(subject.images))
    probe = probes(subject, count, STREAM)[0]
    level = vp_level(LOG_SNR)
    z = probe.at(level)
    null = {**probe.condition, **null_condition(subject.pipe.denoiser, count, torch.device("cpu"))}
    conditional, unconditional = (subject.predict(z, level, told) for told in (probe.condition, null))
    labels = probe.condition[name]
    other = {**probe.condition, name: _other_labels(subject, name, labels)}
    error_with, error_without = (
        mse_per_image(_clean(subject, output, z, level), probe.latents)
        for output in (conditional, unconditional)
    )
    logs = error_with.log() - error_without.log()
    return Findings(
        _linearity(subject, probe, z, level, (conditional, unconditional)),
        _nearest_class(subject, name),
        _relative(subject.predict(z, level, other), conditional),
        float(error_with.mean() / error_without.mean()),
        float(logs.std()) / math.sqrt(count) if count > 1 else math.inf,
    )


def _other_labels(subject: Subject, name: str, labels: Tensor) -> Tensor:
    classes = subject.pipe.denoiser.conditioning[name].classes or 1
    return (labels + max(classes // 2, 1)) % classes


def _clean(subject: Subject, output: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
    return to_x0(subject.pipe.denoiser.prediction, output, z, level)


def _linearity(
    subject: Subject, probe: Probe, z: Tensor, level: NoiseLevel, ends: tuple[Tensor, Tensor]
) -> float:
    """Scales 0, 1 and another against the two predictions that they are made of."""
    conditional, unconditional = ends
    few = min(len(z), 4)
    device, dtype = placement(subject.pipe.denoiser)
    condition: Mapping[str, Tensor] = {
        name: value[:few].to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in probe.condition.items()
    }
    worst = 0.0
    for scale in (0.0, 1.0, 2.5):
        output = guided(subject.pipe.denoiser, z[:few].to(device, dtype), level, condition, scale)
        expected = torch.lerp(unconditional[:few], conditional[:few], scale)
        worst = max(worst, _relative(output.prediction.float().cpu(), expected))
    return worst


def _nearest_class(subject: Subject, name: str) -> float:
    """On noise alone, which leaves the condition everything to say."""
    z, level = subject.noise(subject.latents[:1], STREAM + 1), vp_level(NOISY_LOG_SNR)
    given = subject.pipe.denoiser.conditioning[name]
    assert given.classes is not None
    assert given.null is not None
    # Enough to see a table that was never trained; a thousand classes would take a thousand passes.
    labels = torch.arange(min(given.classes, 16))
    inputs = z[:1].expand(len(labels) + 1, *z.shape[1:])
    output = subject.predict(inputs, level, {name: torch.cat([labels, torch.tensor([given.null])])})
    return min(_relative(one, output[-1]) for one in output[:-1])


def _relative(one: Tensor, other: Tensor) -> float:
    size = float(other.double().square().mean().sqrt())
    distance = float((one.double() - other.double()).square().mean().sqrt()) / max(size, 1e-12)
    return distance if math.isfinite(distance) else 1e6


def _metrics(found: Findings) -> Iterator[Metric]:
    yield Metric(
        "guidance_linearity_error",
        found.linearity,
        "distance of guided outputs from the line through both predictions",
        Healthy(None, LINEAR, "Eq. 6, Ho and Salimans 2022"),
    )
    yield Metric(
        "nearest_class_to_null",
        found.nearest_class,
        "smallest difference between the outputs of a class and of no class",
        Healthy(1e-6, None, "no class is none of the classes"),
    )
    yield Metric(
        "shuffled_labels",
        found.shuffled,
        "change of the output under other labels",
        Healthy(HEARD, None, "theory"),
    )
    yield Metric(
        "error_with_condition_over_without",
        found.gain,
        "x0 error with the true class over that without a class",
        Healthy(None, HARM, "knowing more does not make the best answer worse"),
    )
    yield Metric("gain_standard_error_nats", found.gain_error, "how far its logarithm may be chance")


def _suspicions(found: Findings) -> Iterator[Suspicion]:
    if found.linearity > LINEAR:
        text = f"guided outputs lie {found.linearity:.2g} (relative) off the line through both predictions"
        yield Suspicion(DENOISER, "guidance does not combine the two predictions", 0.8, text)
    if found.shuffled < HEARD:
        text = f"other labels change the output by {found.shuffled:.2g} (relative)"
        yield Suspicion(DENOISER, "condition has no effect", 0.8, text)
        return
    if found.nearest_class < 1e-6:
        yield Suspicion(
            DENOISER, "null label is one of the classes", 0.7, "a class gives the output of no class"
        )
    if found.gain > HARM and math.log(found.gain) > STANDARD_ERRORS * found.gain_error:
        text = f"the true class makes the x0 error {found.gain:.2f} times what it is without a class"
        yield Suspicion(
            DENOISER,
            "condition leads away from the images of its class",
            min(0.85, 0.4 + 2.0 * math.log(found.gain)),
            text,
        )
