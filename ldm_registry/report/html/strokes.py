"""The strokes that diagrams are made of, as SVG; kinds of lines differ by dash and mark, not by colour alone."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_registry.report.html.markup import Markup, tag

KINDS = 6
"""Ways of drawing a line that the style sheet knows; after them they repeat."""


def course(places: Sequence[tuple[float, float]], index: int) -> Markup:
    """A line through places, pixels.

    Args:
        places: (x, y).
        index: Of the line in its diagram.
    """
    path = " ".join(f"{px(x)},{px(y)}" for x, y in places)
    return tag("polyline", points=path, class_=f"line k{index % KINDS}")


def dot(x: float, y: float, index: int) -> Markup:
    """A dot, square, diamond or triangle, in turn."""
    kind = f"dot k{index % KINDS}"
    corners = {
        1: ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        2: ((0, -4), (4, 0), (0, 4), (-4, 0)),
        3: ((0, -4), (4, 3), (-4, 3)),
    }.get(index % 4)
    if corners is None:
        return tag("circle", cx=px(x), cy=px(y), r=3, class_=kind)
    return tag("polygon", points=" ".join(f"{px(x + a)},{px(y + b)}" for a, b in corners), class_=kind)


def straight(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of one of the style sheet's kinds: `grid`, `mark`."""
    return tag("line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2), class_=kind)


def text(said: str, x: float, y: float, anchor: str) -> Markup:
    """Words that begin, end or have their middle at a place."""
    return tag("text", said, x=px(x), y=px(y), text_anchor=anchor)


def px(value: float) -> str:
    """A length, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
