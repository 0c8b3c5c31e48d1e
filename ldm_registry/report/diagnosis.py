"""A diagnosis on one screen of a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric
from ldm_registry.diagnostics.report import Costs, Outcome, Report, Substitution, Verdict, stages_name
from ldm_registry.report.tables import number, table
from ldm_registry.vocabulary import STAGES

WIDTH = 100
"""Where no terminal says how wide it is."""
NARROWEST, WIDEST = 60, 120
EVIDENCE = 3
LINES_EACH = 2


def render(report: Report, width: int | None = None) -> str:
    """The report as text, at most thirty lines unless a window is narrow.

    Where all is well every test has a line; where something is wrong, only those that say so.

    Args:
        report: What was found.
        width: Columns; None takes the terminal's, or a hundred.
    """
    if width is None:
        width = min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)
    is_well = report.verdict.outcome in {Outcome.HEALTHY, Outcome.QUALITY}
    blocks = [
        "\n".join(_verdict(report, width)),
        "\n".join(_all_tests(report.measurements, width) if is_well else _tests(report.measurements, width)),
        "\n".join(_substitution(report.substitution, width)) if report.substitution else "",
        "\n".join(_last_lines(report, width)),
    ]
    return "\n\n".join(block for block in blocks if block)


def wrapped(text: str, lead: str, width: int = WIDTH, most: int | None = None) -> list[str]:
    """A paragraph as lines, the first behind a lead, the others indented by as much.

    Args:
        text: Of the paragraph.
        lead: Before the first line.
        width: Columns.
        most: Lines; what is left out is marked. None for no limit.
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        max_lines=most,
        placeholder=" ...",
    )


def _verdict(report: Report, width: int) -> Iterator[str]:
    verdict = report.verdict
    yield from wrapped(_headline(report.name, verdict), "", width)
    said = ""
    if verdict.fault and verdict.outcome is Outcome.FAULT:
        said = f"{stages_name(verdict.stages)}: {verdict.fault}; "
        first = next((one for one in verdict.evidence if one.startswith(said)), "")
        yield from wrapped(verdict.fault + (f": {first[len(said) :]}" if first else ""), "  ", width)
        verdict_evidence = [one for one in verdict.evidence if one != first]
    else:
        verdict_evidence = list(verdict.evidence)
    for sentence in verdict_evidence[:EVIDENCE]:
        yield from wrapped(sentence, "  - ", width, LINES_EACH)
    if verdict.agreement is False:
        hint = "direct measurements and substitution disagree: take the verdict as a hint"
        yield from wrapped(hint, "  ! ", width)
    others = [one for one in verdict.candidates[1:3] if one.probability >= 0.05]
    if others and verdict.outcome in {Outcome.FAULT, Outcome.UNDECIDED}:
        yield "  or else " + ", ".join(f"{one.name} {one.probability:.0%}" for one in others)
    if verdict.deciding:
        yield from wrapped(f"to decide: {verdict.deciding}", "  ", width)


def _headline(name: str, verdict: Verdict) -> str:
    match verdict.outcome:
        case Outcome.FAULT:
            part = stages_name(verdict.stages)
            return f"{name}: the {part} is at fault (confidence {verdict.confidence:.0%})"
        case Outcome.UNDECIDED:
            pair = " or ".join(one.name for one in verdict.candidates[:2])
            return f"{name}: undecided, {pair} ({verdict.confidence:.0%})"
        case Outcome.QUALITY:
            part = stages_name(verdict.stages)
            return f"{name}: nothing is broken; the {part} is merely poor: {verdict.fault}"
        case Outcome.HEALTHY:
            return f"{name}: healthy (confidence {verdict.confidence:.0%})"


def _all_tests(measurements: Sequence[Measurement], width: int) -> Iterator[str]:
    if not measurements:
        return
    room = width - len("SITU  skipped    10.0")
    rows = [(one.code, _state(one), _shown(one, room), number(one.seconds, 1)) for one in measurements]
    yield table(("test", "", "what it found", "s"), rows, right=(3,))


def _tests(measurements: Sequence[Measurement], width: int) -> Iterator[str]:
    """Those with a finding, then the names of the others."""
    telling = [one for one in measurements if _state(one) != "ok"]
    room = width - len("SITU  skipped  ")
    rows = [(one.code, _state(one), _shown(one, room)) for one in telling]
    if rows:
        yield table(("test", "", "what it found"), rows)
    fine = [one.code for one in measurements if _state(one) == "ok"]
    if fine:
        yield from wrapped(", ".join(fine), "ok: ", width)


def _state(measurement: Measurement) -> str:
    if measurement.skipped is not None:
        return "skipped"
    if any(not one.is_quality for one in measurement.suspicions):
        return "WRONG"
    return "ok" if measurement.is_healthy else "note"


def _shown(measurement: Measurement, room: int) -> str:
    if measurement.skipped is not None:
        return textwrap.shorten(measurement.skipped, room, placeholder=" ...")
    worst = max(measurement.suspicions, key=lambda one: one.strength, default=None)
    if worst is not None:
        return textwrap.shorten(f"{stages_name(worst.stages)}: {worst.fault}", room, placeholder=" ...")
    unhealthy = [metric for metric in measurement.metrics if not metric.is_healthy]
    bounded = [metric for metric in measurement.metrics if metric.healthy is not None]
    said = ""
    for metric in (unhealthy or bounded or measurement.metrics)[:2]:
        longer = f"{said}, {_metric(metric)}" if said else _metric(metric)
        if said and len(longer) > room:
            break
        said = longer
    return textwrap.shorten(said, room, placeholder=" ...")


def _metric(metric: Metric) -> str:
    said = f"{metric.name} {metric.value:.3g}"
    return said if metric.healthy is None else f"{said} ({_range(metric.healthy)})"


def _range(healthy: Healthy) -> str:
    if healthy.low is None:
        return "any" if healthy.high is None else f"at most {healthy.high:.3g}"
    if healthy.high is None:
        return f"at least {healthy.low:.3g}"
    if healthy.low == healthy.high:
        return f"exactly {healthy.low:.3g}"
    return f"{healthy.low:.3g} to {healthy.high:.3g}"


def _substitution(found: Substitution, width: int) -> Iterator[str]:
    yield f"substitution: {found.loss:.1f} dB lost (healthy: at most {found.noticeable:.1f})"
    if found.loss > found.noticeable:
        rows = [
            (stage.value, number(found.shares[stage], 1), number(found.losses[frozenset({stage})], 1))
            for stage in STAGES
        ]
        yield table(("stage", "its share [dB]", "lost with it replaced [dB]"), rows, right=(1, 2))
    for note in found.notes[:2]:
        yield from wrapped(note, "  ", width, 1)


def _last_lines(report: Report, width: int) -> Iterator[str]:
    for warning in report.warnings:
        yield from wrapped(f"warning: {warning}", "", width, LINES_EACH)
    for measurement in report.measurements:
        for note in measurement.notes:
            yield from wrapped(f"{measurement.code}: {note}", "", width, LINES_EACH)
    if report.costs is not None:
        yield from wrapped(_costs(report.costs), "", width)
    way = "quick, " if report.quick else ""
    yield f"{way}{report.images} images, seed {report.seed}, {report.seconds:.1f} s"


def _costs(costs: Costs) -> str:
    """Time of each stage, and the highest of their peaks."""
    stages = ", ".join(f"{one.stage.value} {_ms(one.ms)}" for one in costs.stages)
    peaks = {one.stage: one.peak_mib for one in costs.stages if one.peak_mib is not None}
    held = ""
    if peaks:
        highest = max(peaks, key=lambda stage: peaks[stage])
        # Where the process is all that is counted, what one stage took the next one has too.
        where = f" in the {highest.value}" if len(set(peaks.values())) > 1 else ""
        held = f"; peak {peaks[highest]:,.0f} MiB{where} ({costs.memory})"
    return f"{costs.images} images at once ({costs.clock}): {stages}{held}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100.0 else f"{value:.3g} ms"
