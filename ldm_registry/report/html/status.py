"""How things stand, in a word and a sign, so that colour is never needed to tell."""

from __future__ import annotations

from enum import Enum

from ldm_registry.diagnostics.evidence import Measurement, Metric, Stages
from ldm_registry.diagnostics.report import Outcome, Report, stages_name
from ldm_registry.report.html.markup import Markup, tag
from ldm_registry.vocabulary import STAGES, Kind


class Status(Enum):
    """From the worst to the best: style class and sign."""

    BAD = ("bad", "\N{MULTIPLICATION SIGN}")
    NOTE = ("note", "!")
    NONE = ("none", "\N{EN DASH}")
    GOOD = ("good", "\N{CHECK MARK}")


def badge(status: Status, said: str) -> Markup:
    """A sign and a word."""
    kind, sign = status.value
    return tag(
        "span", tag("span", sign, aria_hidden="true", class_="sign"), " ", said, class_=f"badge {kind}"
    )


def of_stages(report: Report, stages: Stages) -> tuple[Status, str]:
    """What the diagnosis says of one stage, or of where two of them meet."""
    verdict = report.verdict
    if report.stage is not None and report.stage not in stages:
        return Status.NONE, "not looked at"
    if verdict.stages == stages or (len(stages) == 1 and stages < verdict.stages):
        is_fault = verdict.outcome is Outcome.FAULT
        return (Status.BAD, "at fault") if is_fault else (Status.NOTE, "works, but poorly")
    if verdict.outcome is Outcome.UNDECIDED and stages in [one.stages for one in verdict.candidates[:2]]:
        return Status.NOTE, "possibly at fault"
    found = [one for test in report.measurements for one in test.suspicions if one.stages == stages]
    if found:
        return Status.NOTE, "a hint, outweighed" if len(found) == 1 else f"{len(found)} hints, outweighed"
    outside = _outside(report, stages)
    if outside:
        return Status.NOTE, f"{outside} number{'s' * (outside > 1)} out of range"
    if not any(test.stages & stages and test.skipped is None for test in report.measurements):
        return Status.NONE, "not measured"
    return Status.GOOD, "nothing found"


def of_measurement(measurement: Measurement) -> tuple[Status, str]:
    """The outcome of one test."""
    if measurement.skipped is not None:
        return Status.NONE, "skipped"
    if any(not one.is_quality for one in measurement.suspicions):
        return Status.BAD, "finds a fault"
    if measurement.suspicions:
        return Status.NOTE, "finds poor quality"
    if not measurement.is_healthy:
        return Status.NOTE, "number out of range"
    return Status.GOOD, "as it should be"


def of_metric(metric: Metric) -> tuple[Status, str]:
    """One number against its range."""
    if metric.healthy is None:
        return Status.NONE, "no range"
    return (Status.GOOD, "in range") if metric.is_healthy else (Status.BAD, "out of range")


def names(stages: Stages) -> str:
    """The stages in words for a heading: `encoder and decoder`."""
    if stages == frozenset(STAGES):
        return "whole pipeline"
    return stages_name(stages).replace("/", " and ") if stages else "no stage"


def _outside(report: Report, stages: Stages) -> int:
    return sum(
        not metric.is_healthy
        for test in report.measurements
        if test.stages == stages and test.skipped is None
        for metric in test.metrics
    )


NEIGHBOURS: tuple[frozenset[Kind], ...] = (
    frozenset({Kind.ENCODER, Kind.DENOISER}),
    frozenset({Kind.DENOISER, Kind.SCHEDULER}),
    frozenset({Kind.DENOISER, Kind.DECODER}),
    frozenset({Kind.ENCODER, Kind.DECODER}),
)
"""Where stages meet: latents on the way in, predictions and noise levels, latents on the way out, and the codec."""
