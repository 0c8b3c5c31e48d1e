"""The first two sections of the page: the verdict, and the four stages at a glance."""

from __future__ import annotations

from collections.abc import Iterator

from ldm_registry.diagnostics.evidence import Stages
from ldm_registry.diagnostics.report import Outcome, Report, Verdict
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.scale import number
from ldm_registry.report.html.status import NEIGHBOURS, Status, badge, names, of_stages
from ldm_registry.vocabulary import STAGES, Kind

TONES = {
    Outcome.FAULT: (Status.BAD, "fault found"),
    Outcome.UNDECIDED: (Status.NOTE, "undecided"),
    Outcome.QUALITY: (Status.NOTE, "quality, no fault"),
    Outcome.HEALTHY: (Status.GOOD, "healthy"),
}
MEETS = {
    NEIGHBOURS[0]: "latents that the denoiser is made for",
    NEIGHBOURS[1]: "predictions, time and noise levels",
    NEIGHBOURS[2]: "latents that the decoder is made for",
    NEIGHBOURS[3]: "one codec: what one writes the other reads",
}
LEAST_SHOWN = 0.005
"""Answers less probable are not listed."""


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    match verdict.outcome:
        case Outcome.FAULT if len(verdict.stages) > 1:
            return f"The fault lies between {names(verdict.stages)}"
        case Outcome.FAULT:
            return f"The {names(verdict.stages)} is at fault"
        case Outcome.QUALITY:
            return f"Nothing is broken; the {names(verdict.stages)} is merely poor"
        case Outcome.UNDECIDED:
            pair = [_answer(one.stages) for one in verdict.candidates[:2]]
            return f"Undecided: {' or '.join(pair)}" if pair else "Undecided"
        case Outcome.HEALTHY:
            return "Healthy: no part is at fault"


def verdict_section(report: Report) -> Markup:
    """Stage, confidence, fault, evidence, and what would decide."""
    verdict = report.verdict
    status, word = TONES[verdict.outcome]
    return tag(
        "section",
        tag("p", badge(status, word), class_="lead"),
        tag("h2", headline(verdict), id="verdict"),
        tag("p", tag("strong", f"Confidence {verdict.confidence:.0%}."), f" {_fault(verdict)}"),
        tag("p", _agreement(verdict.agreement), class_="quiet") if verdict.agreement is not None else None,
        _deciding(verdict),
        tag("h3", "Evidence", id="evidence"),
        tag("ul", (tag("li", one) for one in verdict.evidence))
        if verdict.evidence
        else tag("p", "No measurement speaks against any part."),
        _candidates(verdict),
        class_=f"verdict {status.value[0]}",
        aria_labelledby="verdict",
    )


def stages_section(report: Report) -> Markup:
    """A card for each stage, and a line for each interface."""
    return tag(
        "section",
        tag("h2", "The four stages", id="stages"),
        tag("ol", (_card(report, stage) for stage in STAGES), class_="cards"),
        tag("h3", "Where they meet", id="interfaces"),
        tag("ul", (_meeting(report, pair) for pair in _pairs(report)), class_="meetings"),
        aria_labelledby="stages",
    )


def _fault(verdict: Verdict) -> str:
    if verdict.fault is not None:
        return f"What is wrong: {verdict.fault}."
    if verdict.outcome is Outcome.HEALTHY:
        return "Every weighty number lies where it does in a healthy pipeline."
    return "What is wrong could not be told."


def _agreement(agreement: bool | None) -> str:
    if agreement:
        return "Measuring each part by itself and replacing the parts in turn name the same culprit."
    return "Measuring the parts and replacing them disagree about the culprit: take the verdict as a hint."


def _deciding(verdict: Verdict) -> Markup | None:
    if verdict.deciding is None:
        return None
    return tag("p", tag("strong", "What would decide: "), verdict.deciding, class_="deciding")


def _candidates(verdict: Verdict) -> Markup | None:
    shown = [one for one in verdict.candidates if one.probability >= LEAST_SHOWN]
    if not shown:
        return None
    rows = (
        tag(
            "tr",
            tag("th", _answer(one.stages), scope="row"),
            tag("td", f"{one.probability:.0%}", class_="number"),
            tag("td", _meter(one.probability), class_="wide", aria_hidden="true"),
        )
        for one in shown
    )
    head = tag("tr", tag("th", "Answer", scope="col"), tag("th", "Probability", scope="col"), tag("td"))
    table = tag(
        "table", tag("caption", "All answers that were weighed"), tag("thead", head), tag("tbody", rows)
    )
    return tag("details", tag("summary", "All answers that were weighed"), table, class_="data")


def _answer(stages: Stages) -> str:
    return f"the {names(stages)}" if stages else "nobody is at fault"


def _meter(share: float) -> Markup:
    """A bar as wide as a share of 1."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}"
    bar = tag("rect", x=0, y=0, width=width, height=8, class_="bar")
    return tag("svg", bar, viewBox="0 0 100 8", class_="meter", preserveAspectRatio="none", focusable="false")


def _card(report: Report, stage: Kind) -> Markup:
    own, name = frozenset({stage}), stage.value.capitalize()
    has_section = report.stage in {None, stage}
    status, word = of_stages(report, own)
    share = report.substitution.shares.get(stage) if report.substitution else None
    facts = {
        "part": report.parts.get(stage, "unknown"),
        "runs on": report.placements.get(stage, "unknown"),
        "share of the loss": None if share is None else f"{number(share)} dB",
    }
    return tag(
        "li",
        tag("h3", tag("a", name, href=f"#{stage.value}") if has_section else name),
        tag("p", badge(status, word)),
        tag("dl", (joined(tag("dt", fact), tag("dd", said)) for fact, said in facts.items() if said)),
        class_=f"card {status.value[0]}",
    )


def _pairs(report: Report) -> Iterator[Stages]:
    """The usual interfaces, and any other pair that something speaks against."""
    yield from NEIGHBOURS
    suspected = {one.stages for test in report.measurements for one in test.suspicions} | {
        report.verdict.stages
    }
    known = {*NEIGHBOURS, frozenset(STAGES)}
    yield from sorted((one for one in suspected - known if len(one) > 1), key=names)


def _meeting(report: Report, pair: Stages) -> Markup:
    status, word = of_stages(report, pair)
    about = MEETS.get(pair, "")
    return tag("li", tag("strong", names(pair)), " ", badge(status, word), tag("span", about, class_="quiet"))
