"""HTML from calls; text is escaped unless it is markup already, so that no name can inject any."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import final

VOID = frozenset({"img", "meta", "br", "hr", "link"})
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML forbids, that no encoding has, or that would turn the reading direction of what follows."""


@final
class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


Child = str | Iterable["str | Markup"] | None
"""A text, markup, several of them, or nothing."""


def escaped(value: str) -> Markup:
    """Text as HTML, for content and for quoted attributes; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)))


def joined(*children: Child) -> Markup:
    """All children in a row."""
    return Markup("".join(_flat(children)))


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """One element.

    Args:
        name: Of the element.
        children: Its content.
        attributes: By name; a trailing underscore is dropped (`class_`), other underscores become hyphens. True
            stands for an attribute without a value, None and False leave it out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            yield escaped(child)
        else:
            yield from map(escaped, child)
