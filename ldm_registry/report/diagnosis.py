"""A diagnosis on one screen of a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric
from ldm_registry.diagnostics.report import Outcome, Report, Substitution, Verdict, stages_name
from ldm_registry.report.tables import number, table
from ldm_registry.vocabulary import STAGES

WIDTH = 100
EVIDENCE_LINES = 4


def render(report: Report) -> str:
    """The report as text, at most about fifty lines of a hundred characters."""
    blocks = [
        "\n".join(_verdict(report)),
        _tests(report.measurements),
        "\n".join(_substitution(report.substitution)) if report.substitution else "",
        _last_line(report),
    ]
    return "\n\n".join(block for block in blocks if block)


def _verdict(report: Report) -> Iterator[str]:
    verdict = report.verdict
    yield _headline(report.name, verdict)
    if verdict.fault and verdict.outcome is Outcome.FAULT:
        yield from _wrapped(verdict.fault, "  ")
    for sentence in verdict.evidence[:EVIDENCE_LINES]:
        yield from _wrapped(sentence, "  - ")
    if verdict.agreement is False:
        yield from _wrapped(
            "direct measurements and substitution disagree: take the verdict as a hint", "  ! "
        )
    others = [one for one in verdict.candidates[1:3] if one.probability >= 0.05]
    if others and verdict.outcome in {Outcome.FAULT, Outcome.UNDECIDED}:
        yield "  or else " + ", ".join(f"{one.name} {one.probability:.0%}" for one in others)
    if verdict.deciding:
        yield from _wrapped(f"to decide: {verdict.deciding}", "  ")


def _headline(name: str, verdict: Verdict) -> str:
    match verdict.outcome:
        case Outcome.FAULT:
            return (
                f"{name}: the {stages_name(verdict.stages)} is at fault (confidence {verdict.confidence:.0%})"
            )
        case Outcome.UNDECIDED:
            pair = " or ".join(one.name for one in verdict.candidates[:2])
            return f"{name}: undecided, {pair} ({verdict.confidence:.0%})"
        case Outcome.QUALITY:
            part = stages_name(verdict.stages)
            return f"{name}: nothing is broken; the {part} is merely poor: {verdict.fault}"
        case Outcome.HEALTHY:
            return f"{name}: healthy (confidence {verdict.confidence:.0%})"


def _tests(measurements: tuple[Measurement, ...]) -> str:
    rows = [(one.code, _state(one), _shown(one), number(one.seconds, 1)) for one in measurements]
    return table(("test", "", "what it found", "s"), rows, right=(3,))


def _state(measurement: Measurement) -> str:
    if measurement.skipped is not None:
        return "skipped"
    if any(not one.is_quality for one in measurement.suspicions):
        return "WRONG"
    return "ok" if measurement.is_healthy else "note"


def _shown(measurement: Measurement) -> str:
    if measurement.skipped is not None:
        return textwrap.shorten(measurement.skipped, WIDTH - 30, placeholder=" ...")
    worst = max(measurement.suspicions, key=lambda one: one.strength, default=None)
    if worst is not None:
        return textwrap.shorten(f"{stages_name(worst.stages)}: {worst.fault}", WIDTH - 30, placeholder=" ...")
    unhealthy = [metric for metric in measurement.metrics if not metric.is_healthy]
    bounded = [metric for metric in measurement.metrics if metric.healthy is not None]
    shown = (unhealthy or bounded or list(measurement.metrics))[:2]
    return textwrap.shorten(", ".join(map(_metric, shown)), WIDTH - 30, placeholder=" ...")


def _metric(metric: Metric) -> str:
    said = f"{metric.name} {metric.value:.3g}"
    return said if metric.healthy is None else f"{said} ({_range(metric.healthy)})"


def _range(healthy: Healthy) -> str:
    if healthy.low is None:
        return "any" if healthy.high is None else f"at most {healthy.high:.3g}"
    return (
        f"at least {healthy.low:.3g}" if healthy.high is None else f"{healthy.low:.3g} to {healthy.high:.3g}"
    )


def _substitution(found: Substitution) -> Iterator[str]:
    yield f"substitution: {found.loss:.1f} dB lost (healthy: at most {found.noticeable:.1f})"
    if found.loss > found.noticeable:
        rows = [
            (stage.value, number(found.shares[stage], 1), number(found.losses[frozenset({stage})], 1))
            for stage in STAGES
        ]
        yield table(("stage", "its share [dB]", "lost with it replaced [dB]"), rows, right=(1, 2))
    for note in found.notes:
        yield from _wrapped(note, "  ")


def _last_line(report: Report) -> str:
    way = "quick, " if report.quick else ""
    said = f"{way}{report.images} images, seed {report.seed}, {report.seconds:.1f} s"
    return "\n".join([*(f"warning: {warning}" for warning in report.warnings), said])


def _wrapped(text: str, lead: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))
