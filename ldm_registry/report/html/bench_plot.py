"""What `ldm bench` found as one SVG picture: where the time goes, how near the machine's best, how it grows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from ldm_registry.costs.ceiling import Ceiling
from ldm_registry.costs.part_calls import Case
from ldm_registry.costs.result import Achieved, Bench, Growth, PartCost
from ldm_registry.report.html.markup import Markup, joined, tag
from ldm_registry.report.html.scale import Axis, number
from ldm_registry.report.html.strokes import course, dot, px, straight, text
from ldm_registry.vocabulary import Kind

WIDTH = 1000
PANEL = 340, 230
"""Width and height of what is inside the axes, pixels."""
COLUMNS, ROWS = (90, 600), (100, 430)
LEGEND = 740
"""Below everything; rows of so many entries, so far apart."""
ENTRIES, ENTRY_HEIGHT = 3, 24
LONGEST = 13
"""Letters of a name beside a bar."""
ROW = 32
"""Of bars."""


def write_plot(bench: Bench, path: Path) -> None:
    """Draw the figures.

    Args:
        bench: What to draw.
        path: One SVG file that needs nothing beside it; an existing one is replaced.
    """
    path.write_text(render_svg(bench), encoding="utf-8", newline="\n")


def render_svg(bench: Bench) -> str:
    """Four diagrams: shares of a run, work against the best rates, time over pixels and over the batch."""
    case = bench.case
    height = LEGEND + ENTRY_HEIGHT * math.ceil(len(bench.parts) / ENTRIES)
    title = f"{bench.name}: batch {case.batch} of {case.size} px on {bench.machine.processor}"
    return tag(
        "svg",
        tag("title", title),
        tag("style", Markup(_style())),
        tag("rect", width=WIDTH, height=height, fill="#ffffff"),
        text(title, 24, 36, "start"),
        _placed(0, 0, "Time of a run, ms", _shares(bench)),
        _placed(1, 0, "Rate of work against its density", _roofs(bench)),
        _placed(0, 1, "Time over the size", _grown(bench, lambda part: part.with_pixels, _pixels, _size)),
        _placed(1, 1, "Time over the batch", _grown(bench, lambda part: part.with_batch, _batch, _number)),
        _legend(bench.parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
        role="img",
        class_="chart",
        font_family="system-ui, sans-serif",
    )


def _placed(column: int, row: int, title: str, pieces: Iterator[Markup]) -> Markup:
    heading = tag("text", title, x=0, y=-14, font_weight="bold")
    return tag("g", heading, pieces, transform=f"translate({COLUMNS[column]} {ROWS[row]})")


def _shares(bench: Bench) -> Iterator[Markup]:
    """One bar for each part, and one for what lies between them."""
    run = bench.run
    spent = {part.name: ms for part in bench.parts if (ms := bench.share_ms(part)) is not None}
    if run.times is not None:
        spent["the rest"] = max(run.times.median_ms - sum(spent.values()), 0.0)
    total = run.times.median_ms if run.times else run.expected_ms
    axis = Axis.of([0.0, *spent.values()], 0, PANEL[0] - 90)
    for value in axis.ticks:
        yield straight(axis.at(value), 0, axis.at(value), PANEL[1], "grid")
        yield text(number(value), axis.at(value), PANEL[1] + 18, "middle")
    for index, (name, ms) in enumerate(spent.items()):
        middle = ROW * (index + 0.6)
        yield text(_short(name), -8, middle + 4, "end")
        yield tag("rect", x=0, y=px(middle - 9), width=px(max(axis.at(ms), 1)), height=18, class_="bar")
        yield text(f"{number(ms)} ({ms / total:.0%})", axis.at(ms) + 6, middle + 4, "start")


def _roofs(bench: Bench) -> Iterator[Markup]:
    """Operations a second over operations for each byte moved; nothing lies above a roof for long."""
    points = []
    for index, part in enumerate(bench.parts):
        if part.cost is not None and part.cost.work.flops:
            achieved = Achieved.of(part.cost, bench.ceiling(part))
            points.append((index, part.cost.work.flops / part.cost.work.moved_bytes, achieved.flop_s or 0.0))
    roofs = [one for one in bench.ceilings if one.matmul_flop_s]
    densities = [density for _, density, _ in points] + [_ridge(one) for one in roofs]
    rates = [rate / 1e9 for _, _, rate in points] + [(one.matmul_flop_s or 0.0) / 1e9 for one in roofs]
    if not points or not roofs:
        yield text("no floating-point operations were counted", 0, 20, "start")
        return
    x = Axis.of([*densities, 4 * max(densities)], 0, PANEL[0], log=True)
    y = Axis.of([min(rates) / 3, *rates, 2 * max(rates)], PANEL[1], 0, log=True)
    yield from _frame(x, y, [number(value) for value in x.ticks], "FLOP for each byte moved", "GFLOP/s")
    for one in roofs:
        yield from _roof(one, x, y)
    for index, density, rate in points:
        yield dot(x.at(density), y.at(rate / 1e9), index)


def _ridge(ceiling: Ceiling) -> float:
    """Where moving takes as long as computing, FLOP for each byte."""
    return (ceiling.matmul_flop_s or 0.0) / ceiling.copy_byte_s


def _roof(ceiling: Ceiling, x: Axis, y: Axis) -> Iterator[Markup]:
    known = (("matrix product", ceiling.matmul_flop_s), ("3x3 convolution", ceiling.convolution_flop_s))
    rates = sorted(((rate, name) for name, rate in known if rate), reverse=True)
    copy = ceiling.copy_byte_s / 1e9
    slope_end = min(x.high, rates[0][0] / ceiling.copy_byte_s)
    low = max(x.low, y.low / copy)
    if low < slope_end:
        yield straight(x.at(low), y.at(copy * low), x.at(slope_end), y.at(copy * slope_end), "mark")
        yield text("copy", x.at(low) + 6, y.at(copy * low) - 14, "start")
    for (rate, name), shift in zip(rates, (-6, 15), strict=False):
        at = y.at(rate / 1e9)
        yield straight(x.at(rate / ceiling.copy_byte_s), at, PANEL[0], at, "mark")
        yield text(f"{name}, {ceiling.dtype}", PANEL[0], at + shift, "end")


def _grown(
    bench: Bench,
    growth: Callable[[PartCost], Growth],
    extent: Callable[[Case], float],
    name: Callable[[Case], str],
) -> Iterator[Markup]:
    cases = {case: extent(case) for part in bench.parts for case, _ in growth(part).points}
    if not cases:
        yield text("nothing was measured", 0, 20, "start")
        return
    names = {value: name(case) for case, value in sorted(cases.items(), key=lambda item: item[1])}
    x = Axis(min(names) / 1.2, max(names) * 1.2, 0, PANEL[0], tuple(names), True)
    times = [cost.times.median_ms for part in bench.parts for _, cost in growth(part).points]
    y = Axis.of([ms for ms in times if ms > 0.0], PANEL[1], 0, log=True)
    about = "image, px" if extent is _pixels else "images at once"
    yield from _frame(x, y, list(names.values()), about, "ms")
    for index, part in enumerate(bench.parts):
        places = [(x.at(extent(case)), y.at(cost.times.median_ms)) for case, cost in growth(part).points]
        yield course(places, index)
        yield from (dot(*place, index) for place in places)


def _frame(x: Axis, y: Axis, names: Sequence[str], about: str, unit: str) -> Iterator[Markup]:
    for value, name in zip(x.ticks, names, strict=True):
        yield straight(x.at(value), 0, x.at(value), PANEL[1], "grid")
        yield text(name, x.at(value), PANEL[1] + 18, "middle")
    yield text(about, PANEL[0] / 2, PANEL[1] + 38, "middle")
    for value in y.ticks:
        yield straight(0, y.at(value), PANEL[0], y.at(value), "grid")
        yield text(number(value), -8, y.at(value) + 4, "end")
    yield text(unit, -8, -14, "end")


def _legend(parts: Sequence[PartCost]) -> Markup:
    return joined(piece for index, part in enumerate(parts) for piece in _entry(part, index))


def _entry(part: PartCost, index: int) -> Iterator[Markup]:
    row, column = divmod(index, ENTRIES)
    x, y = 24 + (WIDTH - 48) / ENTRIES * column, LEGEND + ENTRY_HEIGHT * row
    yield course(((x, y - 4), (x + 30, y - 4)), index)
    yield dot(x + 15, y - 4, index)
    yield text(f"{part.name} ({part.component})", x + 38, y, "start")


def _short(name: str) -> str:
    """What stands beside a bar; the legend has it all."""
    name = name.removeprefix(f"{Kind.CONDITIONER} ")
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 2]}..."


def _style() -> str:
    """The rules for diagrams from the style of the pages, with their light colours put in."""
    sheet = files("ldm_registry.report.html").joinpath("style.css").read_text("utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", sheet.split("}")[0]))
    rules = re.findall(r"^\.(?:chart text|grid|mark|bar|line|dot)\b.*$", sheet, re.MULTILINE)
    return re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], "\n".join(rules))


def _pixels(case: Case) -> float:
    return float(case.pixels)


def _batch(case: Case) -> float:
    return float(case.batch)


def _size(case: Case) -> str:
    return case.size


def _number(case: Case) -> str:
    return str(case.batch)
