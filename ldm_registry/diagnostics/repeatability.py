"""DET: whether the same input gives the same output, alone or in a batch, the first time and the second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.known_data import Mixture
from ldm_registry.diagnostics.probe import vp_level
from ldm_registry.diagnostics.sampler_run import run
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.pipeline import Stepped, placement
from ldm_registry.vocabulary import STAGES, Kind

STREAM = 51
BATCH = 3
STEPS = 4
_BATCH_ERROR = {torch.float64: 1e-6, torch.float32: 2e-3}
_SHORT_BATCH_ERROR = 0.05


@dataclass(frozen=True, slots=True)
class Repetition:
    """One stage, run again.

    Attributes:
        kind: Which.
        again: Relative difference between two runs of the same batch.
        alone: Relative difference between a sample by itself and in a batch.
        allowed: What rounding may make of the latter.
    """

    kind: Kind
    again: float
    alone: float
    allowed: float


@torch.inference_mode()
def measure_repeatability(subject: Subject) -> Measurement:
    """Run each stage twice, and alone against in a batch; then the first steps of the whole pipeline twice."""
    begin = time.perf_counter()
    found = list(_stages(subject))
    whole = _whole(subject)
    metrics = [metric for one in found for metric in _metrics(one)]
    metrics.append(
        Metric(
            "pipeline_again",
            whole,
            "difference between two runs of the whole pipeline",
            Healthy(None, 0.0, "theory"),
        )
    )
    return Measurement(
        "DET",
        "Does the same input give the same output?",
        frozenset(STAGES),
        tuple(metrics),
        tuple(_suspicions(found, whole)),
        seconds=time.perf_counter() - begin,
    )


def _stages(subject: Subject) -> Iterator[Repetition]:
    images = subject.images[:BATCH]
    latents = subject.latents[:BATCH]
    level = vp_level(-1.0)
    z = level.add_noise(latents, subject.noise(latents, STREAM))

    def denoised(rows: Tensor) -> Tensor:
        condition = {name: value[: len(rows)] for name, value in subject.condition.items()}
        return subject.predict(rows, level, condition)

    yield _repeated(subject, Kind.ENCODER, subject.encode, images)
    yield _repeated(subject, Kind.DENOISER, denoised, z)
    yield _repeated(subject, Kind.DECODER, subject.decode, latents)
    levels, data = subject.pipe.scheduler.levels(), Mixture((0.0,), 1.0)

    def sampled(rows: Tensor) -> Tensor:
        return run(subject.pipe.scheduler, data.clean, rows, subject.seed).end

    start = levels.prior(subject.noise(latents, STREAM + 1).double())
    again = _difference(sampled(start), sampled(start))
    # One generator serves the whole batch here, so a sampler that adds noise differs in a smaller one.
    yield Repetition(Kind.SCHEDULER, again, 0.0, 1e-6)


def _repeated(subject: Subject, kind: Kind, stage: Callable[[Tensor], Tensor], inputs: Tensor) -> Repetition:
    first, second, alone = stage(inputs), stage(inputs), stage(inputs[:1])
    dtype = placement(getattr(subject.pipe, kind))[1]
    allowed = _BATCH_ERROR.get(dtype, _SHORT_BATCH_ERROR)
    return Repetition(kind, _difference(first, second), _difference(alone, first[:1]), allowed)


def _whole(subject: Subject) -> float:
    return _difference(*(_begun(subject) for _ in range(2)))


def _begun(subject: Subject) -> Tensor:
    """The state after the first few steps of a real run."""
    state = torch.zeros(())
    for event in subject.pipe.trace(1, seed=subject.seed, synchronise=False):
        if isinstance(event, Stepped):
            state = event.z.float().cpu()
            if event.index + 1 >= STEPS:
                break
    return state


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over largest value; 0 where both are equal, not-a-numbers included."""
    both = one.double(), other.double()
    if torch.equal(one.nan_to_num(), other.nan_to_num()):
        return 0.0
    difference = float((both[0] - both[1]).abs().max() / both[1].abs().max().clamp(min=1e-12))
    return difference if difference == difference else 1e6


def _metrics(one: Repetition) -> Iterator[Metric]:
    yield Metric(
        f"{one.kind}_again",
        one.again,
        f"difference between two runs of the {one.kind}",
        Healthy(None, 0.0, "theory"),
    )
    yield Metric(
        f"{one.kind}_alone",
        one.alone,
        f"difference between a sample by itself and in a batch, {one.kind}",
        Healthy(None, one.allowed, "rounding"),
    )


def _suspicions(found: list[Repetition], whole: float) -> Iterator[Suspicion]:
    for one in found:
        stages = frozenset({one.kind})
        if one.again > 0.0:
            fault = (
                "history is kept from one run to the next"
                if one.kind is Kind.SCHEDULER
                else "is not repeatable"
            )
            text = f"two runs of the {one.kind} on the same input differ by {one.again:.2g} (relative)"
            # Differences of rounding size are what threads do.
            yield Suspicion(stages, fault, 0.9 if one.again > 1e-4 else 0.2, text)
        if one.alone > one.allowed:
            text = f"a sample by itself differs by {one.alone:.2g} (relative) from the same one in a batch"
            yield Suspicion(stages, "samples of a batch influence one another", 0.8, text)
    if whole > 1e-4 and all(one.again <= 1e-4 for one in found):
        text = f"two runs of the pipeline from one seed differ by {whole:.2g}, and no stage by itself does"
        yield Suspicion(
            frozenset({Kind.DENOISER, Kind.SCHEDULER}), "run depends on the one before", 0.7, text
        )
