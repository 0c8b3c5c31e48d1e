"""What each stage took in a real run."""

from __future__ import annotations

from ldm_registry.diagnostics.report import Costs, StageCost
from ldm_registry.report.html.markup import Markup, tag
from ldm_registry.report.html.scale import number

HEADS = ("Stage", "Time, ms", "Share", "Calls", "Peak memory, MiB", "Own weights, MiB", "Device")


def costs_section(costs: Costs | None) -> Markup | None:
    """Time and memory as a table; None where they were not measured."""
    if costs is None:
        return None
    total = sum(one.ms for one in costs.stages)
    caption = (
        f"{costs.images} known images encoded and as many generated, at once; {costs.wall_ms:.0f} ms of wall time in"
        f" all. Times: {costs.clock}. Peaks: {costs.memory}, with all else that was there."
    )
    table = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", (tag("th", name, scope="col") for name in HEADS))),
        tag("tbody", (_row(one, total) for one in costs.stages)),
        class_="subsets",
    )
    box = tag("div", table, class_="scroll", role="region", aria_label="Table: time and memory", tabindex=0)
    return tag("section", tag("h2", "Time and memory", id="costs"), box, aria_labelledby="costs")


def _row(one: StageCost, total: float) -> Markup:
    peak = "not known" if one.peak_mib is None else number(one.peak_mib)
    share = f"{one.ms / total:.0%}" if total > 0.0 else "not known"
    cells = (number(one.ms), share, str(one.calls), peak, number(one.weights_mib), one.device)
    return tag(
        "tr",
        tag("th", one.stage.value.capitalize(), scope="row"),
        (tag("td", cell, class_="number") for cell in cells),
    )
