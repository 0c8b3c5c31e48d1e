"""Diagrams as SVG inside the page; lines differ by dash and mark, not by colour alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from ldm_registry.diagnostics.evidence import Curve
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.scale import Axis, number
from ldm_registry.report.html.strokes import course, dot, px, straight, text

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 44
MOST_MARKS = 40
"""Longer lines are drawn without marks."""

Points = tuple[tuple[float, float], ...]


def curve_figure(curve: Curve, identifier: str) -> Markup:
    """A diagram with its legend, and its numbers as a table behind it.

    Args:
        curve: What to draw; points that are not finite interrupt a line.
        identifier: Unique in the page.
    """
    caption = tag("figcaption", tag("strong", curve.title))
    legend = tag(
        "ul", (tag("li", _swatch(index), name) for index, name in enumerate(curve.lines)), class_="legend"
    )
    return tag("figure", caption, _drawing(curve, identifier), legend, _numbers(curve), class_="curve")


def bar_chart(values: Mapping[str, float], unit: str, identifier: str, mark: float | None = None) -> Markup:
    """Horizontal bars, positive to the right.

    Args:
        values: Length by name.
        unit: Below the axis.
        identifier: Unique in the page.
        mark: A dashed line at this length; None for no line.
    """
    row, left = 34, 96
    height = TOP + row * len(values) + BOTTOM
    shown = [value for value in values.values() if value == value]
    axis = Axis.of([0.0, *shown, *([] if mark is None else [mark])], left, WIDTH - 56)
    about = ", ".join(f"{name} {number(value)}" for name, value in values.items())
    bottom = height - BOTTOM
    pieces = [*_x_axis(axis, unit, TOP, bottom)]
    if mark is not None:
        pieces.append(straight(axis.at(mark), TOP, axis.at(mark), bottom, "mark"))
    for index, (name, value) in enumerate(values.items()):
        middle = TOP + row * (index + 0.5)
        pieces.append(text(name, left - 8, middle + 4, "end"))
        drawn = axis.at(value) if value == value else axis.at(0.0)
        start, end = sorted((axis.at(0.0), drawn))
        pieces.append(
            tag(
                "rect",
                x=px(start),
                y=px(middle - 9),
                width=px(max(end - start, 1)),
                height=18,
                class_="bar",
            )
        )
        pieces.append(text(number(value), end + 6, middle + 4, "start"))
    return _svg(identifier, height, "Shares", about, pieces)


def _drawing(curve: Curve, identifier: str) -> Markup:
    points = [point for line in curve.lines.values() for point in line]
    bottom = HEIGHT - BOTTOM
    x = Axis.of([a for a, _ in points if a - a == 0.0], LEFT, WIDTH - RIGHT)
    drawable = [b for _, b in points if b - b == 0.0 and (b > 0.0 or not curve.log_y)]
    y = Axis.of(drawable, bottom, TOP, log=curve.log_y)
    pieces = [*_x_axis(x, curve.x, TOP, bottom)]
    for value in y.ticks:
        pieces.append(straight(LEFT, y.at(value), WIDTH - RIGHT, y.at(value), "grid"))
        pieces.append(text(number(value), LEFT - 6, y.at(value) + 4, "end"))
    for index, line in enumerate(curve.lines.values()):
        pieces.extend(_drawn(line, x, y, index))
    scale = "logarithmic " if curve.log_y else ""
    about = f"{curve.y} ({scale}vertical axis) against {curve.x}; " + "; ".join(
        _course(name, line) for name, line in curve.lines.items()
    )
    label = tag("p", curve.y, ", logarithmic" if curve.log_y else "", class_="axis-name quiet")
    return joined(label, _svg(identifier, HEIGHT, curve.title, about, pieces))


def _drawn(line: Points, x: Axis, y: Axis, index: int) -> Iterator[Markup]:
    for is_shown, run in groupby(line, key=lambda point: x.shows(point[0]) and y.shows(point[1])):
        if not is_shown:
            continue
        places = [(x.at(a), y.at(b)) for a, b in run]
        yield course(places, index)
        if len(line) <= MOST_MARKS:
            yield from (dot(a, b, index) for a, b in places)


def _swatch(index: int) -> Markup:
    return tag(
        "svg",
        course(((1, 7), (31, 7)), index),
        dot(16, 7, index),
        viewBox="0 0 32 14",
        width=32,
        height=14,
        aria_hidden="true",
        focusable="false",
    )


def _x_axis(axis: Axis, name: str, top: float, bottom: float) -> Iterator[Markup]:
    for value in axis.ticks:
        yield straight(axis.at(value), top, axis.at(value), bottom, "grid")
        yield text(number(value), axis.at(value), bottom + 16, "middle")
    yield text(name, (axis.start + axis.end) / 2, bottom + 36, "middle")


def _svg(identifier: str, height: float, title: str, about: str, pieces: Iterable[Markup]) -> Markup:
    names = f"{identifier}-title", f"{identifier}-about"
    return tag(
        "svg",
        tag("title", title, id=names[0]),
        tag("desc", about, id=names[1]),
        pieces,
        viewBox=f"0 0 {WIDTH} {px(height)}",
        role="img",
        aria_labelledby=names[0],
        aria_describedby=names[1],
        class_="chart",
        focusable="false",
    )


def _numbers(curve: Curve) -> Markup:
    """The same as a table, for whoever cannot or will not read them off."""
    places = sorted({x for line in curve.lines.values() for x, _ in line if x == x})
    lines = [dict(line) for line in curve.lines.values()]
    head = tag("tr", (tag("th", name, scope="col") for name in (curve.x, *curve.lines)))
    rows = (
        tag(
            "tr",
            tag("th", number(x), scope="row"),
            (tag("td", number(line[x]) if x in line else "\N{EN DASH}") for line in lines),
        )
        for x in places
    )
    name = f"{curve.title}: {curve.y}"
    table = tag("table", tag("caption", name), tag("thead", head), tag("tbody", rows))
    box = tag("div", table, class_="scroll", role="region", aria_label=f"Table: {name}", tabindex=0)
    return tag("details", tag("summary", "Numbers of this diagram"), box, class_="data")


def _course(name: str, line: Points) -> str:
    finite = [point for point in line if all(value - value == 0.0 for value in point)]
    if not finite:
        return f"{name}: no finite value"
    (x0, y0), (x1, y1) = finite[0], finite[-1]
    return f"{name}: from {number(y0)} at {number(x0)} to {number(y1)} at {number(x1)}"
