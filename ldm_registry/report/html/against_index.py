"""One pipeline against several others as a page: a table that leads to the page of every pair."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from urllib.parse import quote

from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.page import document


def render_index(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[int],
    links: Sequence[str | None],
    errors: Mapping[int, str],
) -> str:
    """The page; the same rows give the same page.

    Args:
        title: The report in one sentence.
        heads: Of the columns.
        rows: A text for each column; the first names the row.
        numbers: Which columns hold numbers.
        links: Where the full report of each row lies, if there is one.
        errors: Why a row failed, by its place.
    """
    from ldm_registry import __version__

    lines = (_row(cells, numbers, link) for cells, link in zip(rows, links, strict=True))
    found = tag(
        "table",
        tag("caption", "Differences are root mean squares, in steps of 8-bit colour"),
        tag("thead", tag("tr", (tag("th", head, scope="col") for head in heads))),
        tag("tbody", lines),
        class_="subsets",
    )
    body = joined(
        tag("a", "Skip to the table", href="#main", class_="skip"),
        tag("header", tag("h1", title)),
        tag(
            "main",
            tag("div", found, class_="scroll", role="region", aria_label="Table: all pairs", tabindex=0),
            _failed(errors),
            id="main",
            tabindex=-1,
        ),
        tag("footer", tag("p", f"Written by ldm_registry {__version__}.")),
    )
    return document(title, body)


def _row(cells: Sequence[str], numbers: Collection[int], link: str | None) -> Markup:
    name = tag("a", cells[0], href=quote(link)) if link else cells[0]
    others = (
        tag("td", cell, class_="number" if column in numbers else None)
        for column, cell in enumerate(cells)
        if column
    )
    return tag("tr", tag("th", name, scope="row"), others)


def _failed(errors: Mapping[int, str]) -> Markup | None:
    if not errors:
        return None
    return joined(
        tag("h2", "Failed"), tag("ul", (tag("li", tag("pre", text)) for _, text in sorted(errors.items())))
    )
