"""Two pipelines against one another as one HTML page: verdict, pictures, every crossing, every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ldm_registry.diagnostics.agreement import Match
from ldm_registry.diagnostics.crossing import Agreement, Crossed, Crossing, place_in_words, size_in_words
from ldm_registry.diagnostics.parity import Parity
from ldm_registry.diagnostics.report import stages_name
from ldm_registry.report.against import differing_in_words, headline
from ldm_registry.report.html.charts import bar_chart
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.page import NOTHING, document
from ldm_registry.report.html.pictures import figure
from ldm_registry.report.html.scale import number
from ldm_registry.report.html.status import Status, badge
from ldm_registry.vocabulary import STAGES

TONES = {
    Agreement.EQUAL: (Status.GOOD, "bit-equal"),
    Agreement.ROUNDING: (Status.GOOD, "rounding"),
    Agreement.STAGE: (Status.BAD, "they differ"),
    Agreement.TOGETHER: (Status.BAD, "they differ"),
    Agreement.SEVERAL: (Status.NOTE, "they differ"),
    Agreement.UNKNOWN: (Status.NOTE, "not comparable"),
}
MATCHES = {
    Match.EQUAL: Status.GOOD,
    Match.ROUNDING: Status.GOOD,
    Match.DIFFERENT: Status.BAD,
    Match.UNKNOWN: Status.NOTE,
}
ABOUT = (
    "The first pipeline with some of its stages taken from the second. Images are made from the same noise, known"
    " images are returned by the codec, and brought back after having been noised half way."
)
PARITY = (
    "Each stage of the second is given what the same stage of the first was given in its run, so that no difference"
    " of an earlier stage shows in a later one."
)


def write_page(
    found: Crossing, path: Path, provenance: tuple[Mapping[str, str], Mapping[str, str]] = (NOTHING, NOTHING)
) -> None:
    """Write the page of a comparison.

    Args:
        found: What to show.
        path: One file, UTF-8; an existing one is replaced.
        provenance: Rows for the last section by name, of the two pipelines, such as those of `provenance_of`.
    """
    path.write_text(render_html(found, provenance), encoding="utf-8", newline="\n")


def render_html(
    found: Crossing, provenance: tuple[Mapping[str, str], Mapping[str, str]] = (NOTHING, NOTHING)
) -> str:
    """The page of a comparison; the same result gives the same page.

    Args:
        found: What to show.
        provenance: As for `write_page`.
    """
    title = f"{found.names[0]} against {found.names[1]}"
    sections = (
        _verdict(found),
        _pictures(found),
        _crossings(found),
        *(_stage(one, is_first=index == 0) for index, one in enumerate(found.parities)),
        _provenance(found, provenance),
    )
    body = joined(
        tag("a", "Skip to the verdict", href="#main", class_="skip"),
        _header(found, title),
        tag("main", (section for section in sections if section is not None), id="main", tabindex=-1),
        tag("footer", tag("p", f"Written by ldm_registry {found.version}.")),
    )
    return document(f"{headline(found)} \N{EN DASH} {title}", body)


def _header(found: Crossing, title: str) -> Markup:
    scope = "all stages" if found.stage is None else f"the {found.stage.value} only"
    about = f"{scope}, {found.images} images from noise, {found.known} known ones, {found.seconds:.0f} s"
    places = {"verdict": "Verdict"}
    if found.pictures:
        places["pictures"] = "Pictures"
    places["crossings"] = "Crossings"
    places |= {one.stage.value: one.stage.value.capitalize() for one in found.parities}
    places["provenance"] = "Provenance"
    links = (tag("li", tag("a", name, href=f"#{place}")) for place, name in places.items())
    return tag(
        "header",
        tag("p", "Two diffusion pipelines, stage by stage", class_="quiet"),
        tag("h1", title),
        tag("p", about, class_="quiet"),
        tag("nav", tag("ul", links), aria_label="Sections"),
    )


def _verdict(found: Crossing) -> Markup:
    status, word = TONES[found.agreement]
    sentence = headline(found)
    return tag(
        "section",
        tag("p", badge(status, word), class_="lead"),
        tag("h2", sentence[:1].upper() + sentence[1:], id="verdict"),
        (tag("p", one) for one in _sentences(found)),
        _list(f"not asked the same: {line}; the first's is taken for both" for line in found.settings),
        _list(found.notes),
        class_=f"verdict {status.value[0]}",
        aria_labelledby="verdict",
    )


def _sentences(found: Crossing) -> Iterator[str]:
    if found.difference is not None and found.agreement is not Agreement.EQUAL:
        yield f"Their images differ by {number(found.difference)} of 255 steps of colour (root mean square)."
        if found.better is not None:
            yield f"On known images {found.names[found.better]} is the better one."
        elif found.known:
            yield "On known images neither is better."
    if found.first is not None:
        place = place_in_words(found.first)
        yield f"They part first in the {found.first.stage}{f': {place}' if place else ''}."


def _pictures(found: Crossing) -> Markup | None:
    if not found.pictures:
        return None
    return tag(
        "section",
        tag("h2", "The same images by both", id="pictures"),
        tag("div", (figure(picture) for picture in found.pictures), class_="figures"),
        aria_labelledby="pictures",
    )


def _crossings(found: Crossing) -> Markup:
    shares = {stages_name(stages): share for stages, share in found.shares.items()}
    chart = (
        tag(
            "figure",
            bar_chart(shares, "share of the difference, steps of colour", "shares"),
            tag(
                "figcaption", "Averaged over all orders in which the stages can be exchanged (Shapley value)."
            ),
            class_="curve",
        )
        if shares
        else None
    )
    heads = (
        "Difference",
        *(stage.value.capitalize() for stage in STAGES),
        "Round trip, dB",
        "Regeneration, dB",
    )
    head = tag("tr", (tag("th", name, scope="col") for name in heads))
    run = [one for one in found.crossed if one.difference is not None]
    table = tag(
        "table",
        tag("caption", "Difference from the first, root mean square in steps of 8-bit colour"),
        tag("thead", head),
        tag("tbody", (_row(found, one) for one in run)),
        class_="subsets",
    )
    refused = (f"{one.name}: {'; '.join(one.reasons)}" for one in found.crossed if one.difference is None)
    listed = _list(refused)
    return tag(
        "section",
        tag("h2", "Stages exchanged", id="crossings"),
        tag("p", ABOUT, class_="quiet"),
        chart,
        tag("div", table, class_="scroll", role="region", aria_label="Table: all crossings", tabindex=0),
        joined(tag("h3", "Not crossed"), listed) if listed else None,
        aria_labelledby="crossings",
    )


def _row(found: Crossing, one: Crossed) -> Markup:
    cells = (
        tag(
            "td",
            "second" if stage in one.taken else "same" if stage in found.identical else "first",
            class_="swap" if stage in one.taken else None,
        )
        for stage in STAGES
    )
    return tag(
        "tr",
        tag("th", number(one.difference), class_="number", scope="row"),
        cells,
        (
            tag("td", "\N{EN DASH}" if value is None else number(value), class_="number")
            for value in (one.round_trip_db, one.regeneration_db)
        ),
    )


def _stage(one: Parity, *, is_first: bool) -> Markup:
    place = place_in_words(one)
    return tag(
        "section",
        tag("h2", one.stage.value.capitalize(), id=one.stage.value),
        tag("p", badge(MATCHES[one.match], size_in_words(one))),
        tag("p", f"Parts at: {place}.") if place else None,
        _list(differing_in_words(one)),
        tag("p", PARITY, class_="quiet") if is_first else None,
        aria_labelledby=one.stage.value,
    )


def _list(lines: Iterator[str] | tuple[str, ...]) -> Markup | None:
    items = [tag("li", line) for line in lines]
    return tag("ul", items) if items else None


def _provenance(found: Crossing, provenance: tuple[Mapping[str, str], Mapping[str, str]]) -> Markup:
    rows = {"first": found.names[0], "second": found.names[1], "ldm_registry": found.version}
    rows |= {"seed": str(found.seed), "seconds": f"{found.seconds:.1f}"}
    mine, yours = provenance
    for name in [*mine, *(name for name in yours if name not in mine)]:
        first, second = mine.get(name, "none"), yours.get(name, "none")
        rows[name] = first if first == second else f"first: {first}; second: {second}"
    table = tag(
        "table",
        tag("caption", "What was compared, by what, on what", class_="hidden"),
        tag(
            "tbody", (tag("tr", tag("th", name, scope="row"), tag("td", said)) for name, said in rows.items())
        ),
        class_="facts",
    )
    return tag("section", tag("h2", "Provenance", id="provenance"), table, aria_labelledby="provenance")
