"""The page: verdict first, then the stages, their measurements, the substitution, and where it all comes from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from ldm_registry.diagnostics.report import Report
from ldm_registry.report.html.costs_section import costs_section
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.measurement_section import (
    measurement_sections,
    places_of_several,
    skipped_section,
)
from ldm_registry.report.html.substitution_section import substitution_section
from ldm_registry.report.html.verdict_section import headline, stages_section, verdict_section
from ldm_registry.vocabulary import STAGES

NOTHING: Mapping[str, str] = MappingProxyType({})


def write_page(report: Report, path: Path, provenance: Mapping[str, str] = NOTHING) -> None:
    """Write the page of a diagnosis.

    Args:
        report: What was found.
        path: One file, UTF-8; an existing one is replaced.
        provenance: As for `render_html`.
    """
    path.write_text(render_html(report, provenance), encoding="utf-8", newline="\n")


def render_html(report: Report, provenance: Mapping[str, str] = NOTHING) -> str:
    """The page of a diagnosis: one document without a script that it needs or an address that it loads.

    The same report gives the same page.

    Args:
        report: What was found.
        provenance: More rows for the last section, by name, such as those of `provenance_of`.
    """
    body = joined(
        tag("a", "Skip to the verdict", href="#main", class_="skip"),
        _header(report),
        tag("main", _sections(report, provenance), id="main", tabindex=-1),
        tag("footer", tag("p", f"Written by ldm_registry {report.version}.")),
    )
    return document(f"{headline(report.verdict)} \N{EN DASH} {report.name}", body)


def document(title: str, body: Markup) -> str:
    """A whole page in the style of all reports, which forbids itself to load anything.

    Args:
        title: For the window.
        body: What is inside `<body>`.
    """
    return f'<!doctype html>\n<html lang="en">\n{_head(title)}\n{tag("body", body)}\n</html>\n'


def _sections(report: Report, provenance: Mapping[str, str]) -> Iterator[Markup]:
    yield verdict_section(report)
    yield stages_section(report)
    found = (
        substitution_section(report.substitution),
        *measurement_sections(report),
        skipped_section(report),
        costs_section(report.costs),
    )
    yield from (section for section in found if section is not None)
    yield _provenance(report, provenance)


def _head(title: str) -> Markup:
    style, script = _resource("style.css"), _resource("script.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
        tag("script", Markup(script), type="module"),
    )


def _header(report: Report) -> Markup:
    scope = "all stages" if report.stage is None else f"the {report.stage.value} only"
    way = "quick way" if report.quick else "thorough way"
    about = f"{scope}, {way}, {report.images} known images, {report.seconds:.0f} s"
    return tag(
        "header",
        tag("p", "Diagnosis of a diffusion pipeline", class_="quiet"),
        tag("h1", report.name),
        tag("p", about, class_="quiet"),
        tag("nav", tag("ul", _links(report)), aria_label="Sections"),
    )


def _links(report: Report) -> Iterator[Markup]:
    places = {"verdict": "Verdict", "stages": "Stages"}
    if report.substitution is not None:
        places["substitution"] = "Parts replaced"
    for stage in STAGES:
        if report.stage is None or stage is report.stage:
            places[stage.value] = stage.value.capitalize()
    places |= dict(places_of_several(report))
    if any(one.skipped is not None for one in report.measurements):
        places["skipped"] = "Not measured"
    if report.costs is not None:
        places["costs"] = "Costs"
    places["provenance"] = "Provenance"
    return (tag("li", tag("a", name, href=f"#{place}")) for place, name in places.items())


def _provenance(report: Report, more: Mapping[str, str]) -> Markup:
    rows = {"spec": report.name, "ldm_registry": report.version, "seed": str(report.seed)}
    rows |= {stage.value: name for stage, name in report.parts.items()}
    rows |= {f"{stage.value} runs on": where for stage, where in report.placements.items()}
    rows |= {"known images": str(report.images), "seconds": f"{report.seconds:.1f}", **more}
    table = tag(
        "table",
        tag("caption", "What was diagnosed, by what, on what", class_="hidden"),
        tag(
            "tbody", (tag("tr", tag("th", name, scope="row"), tag("td", said)) for name, said in rows.items())
        ),
        class_="facts",
    )
    warnings = (
        joined(tag("h3", "Warnings at assembly"), tag("ul", (tag("li", one) for one in report.warnings)))
        if report.warnings
        else None
    )
    return tag(
        "section", tag("h2", "Provenance", id="provenance"), table, warnings, aria_labelledby="provenance"
    )


@cache
def _resource(name: str) -> str:
    return files("ldm_registry.report.html").joinpath(name).read_text("utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    """A content-security-policy source that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
