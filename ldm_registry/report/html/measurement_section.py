"""One section for each stage: its tests with their numbers, pictures and diagrams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Stages, Suspicion
from ldm_registry.diagnostics.report import Report
from ldm_registry.report.html.charts import curve_figure
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.pictures import figure
from ldm_registry.report.html.scale import number
from ldm_registry.report.html.status import Status, badge, names, of_measurement, of_metric
from ldm_registry.vocabulary import STAGES, Kind

CODEC, TOGETHER = "codec", "together"
"""Identifiers of the sections of tests that look at several stages."""
PAIR: Stages = frozenset({Kind.ENCODER, Kind.DECODER})
Numbered = tuple[int, Measurement]
"""A test with its place in the report, which makes its identifier."""
ABOUT = {
    "encoder": "Turns an image into the latent that the denoiser works on.",
    "denoiser": "Guesses the clean latent behind a noisy one.",
    "scheduler": "Decides the noise levels, and what to make of each guess of the denoiser.",
    "decoder": "Turns the latent back into an image.",
}


def measurement_sections(report: Report) -> Iterator[Markup]:
    """The four stages, then what belongs to several of them."""
    ran = [(index, one) for index, one in enumerate(report.measurements) if one.skipped is None]
    for stage in STAGES:
        if report.stage is not None and stage is not report.stage:
            continue
        own: Stages = frozenset({stage})
        shared = [(index, one) for index, one in ran if stage in one.stages and one.stages != own]
        yield tag(
            "section",
            tag("h2", stage.value.capitalize(), id=stage.value),
            tag("p", ABOUT[stage.value], class_="quiet"),
            (_measurement(one, index) for index, one in ran if one.stages == own),
            _see_also(shared),
            aria_labelledby=stage.value,
        )
    for place, title, about, tests in _of_several(ran):
        yield tag(
            "section",
            tag("h2", title, id=place),
            tag("p", about, class_="quiet"),
            (_measurement(one, index) for index, one in tests),
            aria_labelledby=place,
        )


def places_of_several(report: Report) -> Iterator[tuple[str, str]]:
    """Identifier and short title of the sections that follow the stages."""
    ran = [(index, one) for index, one in enumerate(report.measurements) if one.skipped is None]
    yield from ((place, place.capitalize()) for place, _, _, _ in _of_several(ran))


def _of_several(ran: Sequence[Numbered]) -> Iterator[tuple[str, str, str, Sequence[Numbered]]]:
    """The codec, whose halves only make sense together, then the pipeline as a whole."""
    codec = [(index, one) for index, one in ran if one.stages == PAIR]
    if codec:
        yield CODEC, "Encoder and decoder together", "What one writes the other has to read.", codec
    rest = [(index, one) for index, one in ran if len(one.stages) != 1 and one.stages != PAIR]
    if rest:
        about = "Tests of interfaces, of what all parts have in common, and of the running pipeline."
        yield TOGETHER, "All stages together", about, rest


def skipped_section(report: Report) -> Markup | None:
    """What was not measured, and why."""
    skipped = [one for one in report.measurements if one.skipped is not None]
    if not skipped:
        return None
    items = (
        joined(
            tag("dt", f"{one.title} ", tag("span", f"({one.code}; {names(one.stages)})", class_="quiet")),
            tag("dd", one.skipped),
        )
        for one in skipped
    )
    return tag(
        "section", tag("h2", "Not measured", id="skipped"), tag("dl", items), aria_labelledby="skipped"
    )


def range_of(healthy: Healthy | None) -> str:
    """A healthy range in words."""
    if healthy is None or (healthy.low is None and healthy.high is None):
        return "none known"
    if healthy.low is None:
        return f"at most {number(healthy.high)}"
    if healthy.high is None:
        return f"at least {number(healthy.low)}"
    if healthy.low == healthy.high:
        return f"exactly {number(healthy.low)}"
    return f"{number(healthy.low)} to {number(healthy.high)}"


def _see_also(shared: Sequence[Numbered]) -> Markup | None:
    if not shared:
        return None
    links = (
        tag(
            "li",
            tag("a", one.title, href=f"#test-{index}"),
            " ",
            badge(*of_measurement(one)),
        )
        for index, one in shared
    )
    bad = sum(of_measurement(one)[0] in {Status.BAD, Status.NOTE} for _, one in shared)
    found = f"{bad} of them with a finding" if bad else "none of them with a finding"
    said = f"{len(shared)} test{'s' * (len(shared) != 1)} shared with other stages, {found}"
    return tag("details", tag("summary", said), tag("ul", links, class_="links"), open=bad > 0)


def _measurement(one: Measurement, index: int) -> Markup:
    status, word = of_measurement(one)
    identifier = f"test-{index}"
    looks_at = f"{one.code}; looks at: {names(one.stages)}; {one.seconds:.1f} s"
    inside = joined(
        _metrics(one.metrics, one.title) if one.metrics else None,
        tag(
            "div",
            (figure(picture) for picture in one.pictures),
            (curve_figure(curve, f"{identifier}-{place}") for place, curve in enumerate(one.curves)),
            class_="figures",
        ),
    )
    details = tag(
        "details",
        tag("summary", _contents(one)),
        inside,
        open=status in {Status.BAD, Status.NOTE} or bool(one.pictures or one.curves),
    )
    return tag(
        "article",
        tag("h3", one.title, id=identifier),
        tag("p", badge(status, word), " ", tag("span", looks_at, class_="quiet")),
        tag("ul", (_suspicion(found) for found in one.suspicions), class_="findings")
        if one.suspicions
        else None,
        (tag("p", note, class_="quiet") for note in one.notes),
        details if inside else None,
        class_=f"test {status.value[0]}",
        aria_labelledby=identifier,
    )


def _contents(one: Measurement) -> str:
    counts = {"number": len(one.metrics), "picture": len(one.pictures), "diagram": len(one.curves)}
    return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count)


def _suspicion(found: Suspicion) -> Markup:
    whom = "Poor" if found.is_quality else "Against"
    return tag(
        "li",
        tag("strong", f"{whom} the {names(found.stages)}: {found.fault}"),
        tag("span", f" (strength {number(found.strength)} of 1). "),
        found.evidence,
    )


def _metrics(metrics: Sequence[Metric], title: str) -> Markup:
    """The roles repeat what the elements say, since narrow windows lay the table out as blocks."""
    heads = ("Number", "Value", "Healthy range", "Status")
    head = tag("tr", (tag("th", name, scope="col", role="columnheader") for name in heads), role="row")
    return tag(
        "table",
        tag("caption", f"Numbers of: {title}", class_="hidden"),
        tag("thead", head, role="rowgroup"),
        tag("tbody", (_metric(one) for one in metrics), role="rowgroup"),
        class_="metrics",
        role="table",
    )


def _metric(metric: Metric) -> Markup:
    status, word = of_metric(metric)
    name = joined(tag("code", metric.name), tag("span", metric.about, class_="about"))
    source = metric.healthy.source if metric.healthy else ""
    bounds = joined(range_of(metric.healthy), tag("span", source, class_="about") if source else None)
    return tag(
        "tr",
        tag("th", name, scope="row", role="rowheader"),
        tag("td", number(metric.value), class_="number", role="cell", data_label="Value"),
        tag("td", tag("div", bounds), role="cell", data_label="Healthy range"),
        tag("td", badge(status, word), role="cell", data_label="Status"),
        class_=status.value[0],
        role="row",
    )
