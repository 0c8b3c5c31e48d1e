"""The pipeline with every subset of its stages replaced, and who holds how much of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ldm_registry.diagnostics.evidence import Picture, Stages
from ldm_registry.diagnostics.report import Substitution
from ldm_registry.report.html.charts import bar_chart
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.pictures import figure
from ldm_registry.report.html.scale import number
from ldm_registry.report.html.status import Status, badge
from ldm_registry.vocabulary import STAGES


def substitution_section(found: Substitution | None) -> Markup | None:
    """Shares as bars, all subsets as a table, pictures of single replacements."""
    if found is None:
        return None
    is_lost = found.loss > found.noticeable
    status = (
        (Status.NOTE, "more than healthy parts lose")
        if is_lost
        else (Status.GOOD, "as in a healthy pipeline")
    )
    return tag(
        "section",
        tag("h2", "Parts replaced in turn", id="substitution"),
        tag("p", ABOUT, class_="quiet"),
        tag(
            "p",
            badge(*status),
            f" The pipeline loses {number(found.loss)} dB against the one in which everything is replaced;"
            f" healthy parts lose up to {number(found.noticeable)} dB.",
        ),
        tag("h3", "Shapley shares"),
        tag("figure", _shares(found), tag("figcaption", SHARES), class_="curve"),
        _pictures(found.pictures),
        tag("h3", "All subsets"),
        _table(found),
        joined(tag("h3", "Notes"), tag("ul", (tag("li", note) for note in found.notes)))
        if found.notes
        else None,
        aria_labelledby="substitution",
    )


ABOUT = (
    "Each stage has a stand-in that is known to be right. The pipeline is run with every subset of the stages"
    " replaced; where replacing a stage brings the quality back, that stage lost it."
)
SHARES = (
    "How much of the loss each stage answers for, averaged over all orders of replacing them. A negative share:"
    " the stage does better than its stand-in. Dashed: what is noticeable."
)


def _shares(found: Substitution) -> Markup:
    shares = {stage.value: found.shares.get(stage, float("nan")) for stage in STAGES}
    return bar_chart(shares, "share of the loss, dB", "shares", found.noticeable)


def _pictures(pictures: Sequence[Picture]) -> Markup | None:
    if not pictures:
        return None
    heading = tag("h3", "The same images, with one part replaced at a time")
    return joined(heading, tag("div", (figure(picture) for picture in pictures), class_="figures"))


def _table(found: Substitution) -> Markup:
    subsets = [frozenset(some) for size in range(5) for some in combinations(STAGES, size)]
    head = tag(
        "tr",
        tag("th", "Loss, dB", scope="col"),
        (tag("th", stage.value.capitalize(), scope="col") for stage in STAGES),
    )
    rows = (_row(found, subset) for subset in subsets if subset in found.losses)
    table = tag(
        "table", tag("caption", found.metric), tag("thead", head), tag("tbody", rows), class_="subsets"
    )
    name = "Table: losses of all subsets"
    return tag("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


def _row(found: Substitution, subset: Stages) -> Markup:
    cells = (
        tag("td", "replaced" if stage in subset else "kept", class_="swap" if stage in subset else None)
        for stage in STAGES
    )
    return tag("tr", tag("th", number(found.losses[subset]), class_="number", scope="row"), cells)
