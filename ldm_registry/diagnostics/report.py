"""What a diagnosis hands out: the verdict, everything that it rests on, and the document of it all.

Plain values; nothing here holds a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ldm_registry.diagnostics.evidence import Curve, Measurement, Metric, Picture, Stages, Suspicion
from ldm_registry.vocabulary import STAGES, Kind


class Outcome(StrEnum):
    """How a diagnosis ends."""

    HEALTHY = "healthy"
    QUALITY = "quality"
    """A part is merely poor (undertrained, small), not broken."""
    FAULT = "fault"
    UNDECIDED = "undecided"
    """Something is wrong, and the evidence does not say whose doing it is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer that the verdict weighed.

    Attributes:
        stages: Who would be at fault; empty for "nobody".
        probability: In [0, 1]; all candidates together make 1.
    """

    stages: Stages
    probability: float

    @property
    def name(self) -> str:
        """`healthy`, `denoiser`, `encoder/decoder`, ..."""
        return stages_name(self.stages)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is to blame.

    Attributes:
        outcome: Fault, quality, healthy or undecided.
        stages: At fault: one stage, or the two sides of an interface. Merely poor, for `quality`. Empty when healthy
            or undecided.
        confidence: Probability of the answer, in [0, 1].
        fault: What is wrong, a phrase of the field; None where nothing is, or nothing could be told.
        evidence: Sentences, the weightiest first.
        candidates: Every answer that was weighed, the likeliest first.
        agreement: Whether the direct measurements and the substitution name the same stage; None where only one of
            them was run or neither found a loss.
        deciding: The one measurement that would separate the two likeliest answers; None unless undecided.
    """

    outcome: Outcome
    stages: Stages
    confidence: float
    fault: str | None
    evidence: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    agreement: bool | None = None
    deciding: str | None = None

    @property
    def stage(self) -> str:
        """`encoder`, `denoiser/scheduler`, `healthy` or `undecided`, in one word; quality counts as healthy."""
        if self.outcome is Outcome.FAULT:
            return stages_name(self.stages)
        return "undecided" if self.outcome is Outcome.UNDECIDED else "healthy"


@dataclass(frozen=True, slots=True)
class Substitution:
    """The pipeline with every subset of its stages replaced by something that is known to be right.

    Attributes:
        metric: What a loss is, with its unit.
        losses: Quality lost, by the stages that were replaced; 16 of them, the first (nothing replaced) the
            pipeline as it is, the one with all four replaced what is to be reached.
        shares: Shapley value of each stage: how much of the loss is its doing. They sum to
            `losses[nothing] - losses[everything]`.
        noticeable: A loss below this is no fault: what healthy parts lose in this setting.
        pictures: The same images through the pipeline as it is, and with one stage replaced.
        notes: What could not be replaced, and why.
        seconds: Wall time.
    """

    metric: str
    losses: Mapping[Stages, float]
    shares: Mapping[Kind, float]
    noticeable: float
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """What the pipeline loses against the one in which everything was replaced."""
        return self.losses[frozenset()] - self.losses[frozenset(STAGES)]


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage took in a run.

    Attributes:
        stage: Which.
        device: On which it ran.
        ms: Time of all its calls together.
        calls: How often it was called; for the scheduler, its steps.
        peak_mib: Most memory held while it worked, everything else that was there included; None where nothing tells.
        weights_mib: What its own parameters and buffers take.
    """

    stage: Kind
    device: str
    ms: float
    calls: int
    peak_mib: float | None
    weights_mib: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What a real run took: known images encoded, and as many generated.

    Attributes:
        images: How many, at once.
        wall_ms: Wall time of it all.
        clock: What the times of the stages were read from.
        memory: What the peaks count.
        stages: In the order of the data flow.
    """

    images: int
    wall_ms: float
    clock: str
    memory: str
    stages: tuple[StageCost, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a diagnosis found.

    Attributes:
        name: Of the spec.
        verdict: First, since it is what was asked for.
        measurements: In the order in which they ran.
        substitution: None where one stage was looked at by itself.
        stage: The only stage that was looked at; None for the whole pipeline.
        parts: What each stage is: the component's registered name, by stage.
        placements: Device and dtype of each stage, such as `cpu, float32`.
        seed: Of all noise.
        images: How many known images were used.
        quick: Whether it took the short way.
        warnings: Findings of the contract check that did not forbid assembly.
        seconds: Wall time of the diagnosis.
        version: Of `ldm_registry`.
        costs: Time and memory of each stage; None where one stage was looked at by itself, the short way was taken, or
            nothing could be run.
    """

    name: str
    verdict: Verdict
    measurements: tuple[Measurement, ...]
    substitution: Substitution | None
    stage: Kind | None
    parts: Mapping[Kind, str]
    placements: Mapping[Kind, str]
    seed: int
    images: int
    quick: bool
    warnings: tuple[str, ...]
    seconds: float
    version: str
    costs: Costs | None = None

    @property
    def exit_code(self) -> int:
        """1 where something is wrong, 0 where all is well or merely poor."""
        return 0 if self.verdict.outcome in {Outcome.HEALTHY, Outcome.QUALITY} else 1

    def to_document(self) -> dict[str, Any]:
        """The report as a JSON document, without its pictures; numbers that JSON lacks become null."""
        return {
            "spec": self.name,
            "verdict": _verdict(self.verdict),
            "measurements": [_measurement(one) for one in self.measurements],
            "substitution": _substitution(self.substitution) if self.substitution else None,
            "stage": self.stage.value if self.stage else None,
            "parts": {kind.value: name for kind, name in self.parts.items()},
            "placements": {kind.value: where for kind, where in self.placements.items()},
            "seed": self.seed,
            "images": self.images,
            "quick": self.quick,
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            "version": self.version,
            "costs": _costs(self.costs) if self.costs else None,
            "exit_code": self.exit_code,
        }


def stages_name(stages: Stages) -> str:
    """The stages in the order of the data flow, joined by a slash; `healthy` for none."""
    return "/".join(stage.value for stage in STAGES if stage in stages) or Outcome.HEALTHY.value


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome.value,
        "stage": verdict.stage,
        "stages": [stage.value for stage in STAGES if stage in verdict.stages],
        "confidence": verdict.confidence,
        "fault": verdict.fault,
        "evidence": list(verdict.evidence),
        "candidates": [
            {"stage": candidate.name, "probability": candidate.probability}
            for candidate in verdict.candidates
        ],
        "agreement": verdict.agreement,
        "deciding": verdict.deciding,
    }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        "code": measurement.code,
        "title": measurement.title,
        "stages": [stage.value for stage in STAGES if stage in measurement.stages],
        "healthy": measurement.is_healthy,
        "metrics": [_metric(metric) for metric in measurement.metrics],
        "suspicions": [_suspicion(suspicion) for suspicion in measurement.suspicions],
        "curves": [_curve(curve) for curve in measurement.curves],
        "seconds": measurement.seconds,
        "skipped": measurement.skipped,
        "notes": list(measurement.notes),
    }


def _metric(metric: Metric) -> dict[str, Any]:
    healthy = metric.healthy
    return {
        "name": metric.name,
        "value": _number(metric.value),
        "about": metric.about,
        "healthy": metric.is_healthy,
        "range": None if healthy is None else [_number(healthy.low), _number(healthy.high)],
        "source": None if healthy is None else healthy.source,
    }


def _suspicion(suspicion: Suspicion) -> dict[str, Any]:
    return {
        "stage": stages_name(suspicion.stages),
        "fault": suspicion.fault,
        "strength": suspicion.strength,
        "evidence": suspicion.evidence,
        "quality": suspicion.is_quality,
    }


def _curve(curve: Curve) -> dict[str, Any]:
    lines = {name: [[_number(x), _number(y)] for x, y in points] for name, points in curve.lines.items()}
    return {"title": curve.title, "x": curve.x, "y": curve.y, "log_y": curve.log_y, "lines": lines}


def _substitution(substitution: Substitution) -> dict[str, Any]:
    return {
        "metric": substitution.metric,
        "loss": _number(substitution.loss),
        "noticeable": substitution.noticeable,
        "losses": [
            {"replaced": [stage.value for stage in STAGES if stage in stages], "loss": _number(loss)}
            for stages, loss in substitution.losses.items()
        ],
        "shares": {stage.value: _number(share) for stage, share in substitution.shares.items()},
        "notes": list(substitution.notes),
        "seconds": substitution.seconds,
    }


def _costs(costs: Costs) -> dict[str, Any]:
    return {
        "images": costs.images,
        "wall_ms": costs.wall_ms,
        "clock": costs.clock,
        "memory": costs.memory,
        "stages": {
            one.stage.value: {
                "device": one.device,
                "ms": one.ms,
                "calls": one.calls,
                "peak_mib": one.peak_mib,
                "weights_mib": one.weights_mib,
            }
            for one in costs.stages
        },
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
