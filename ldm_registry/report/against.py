"""Two pipelines against one another on one screen of a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from ldm_registry.diagnostics.agreement import Match
from ldm_registry.diagnostics.crossing import Agreement, Crossed, Crossing, place_in_words, size_in_words
from ldm_registry.diagnostics.parity import Parity
from ldm_registry.diagnostics.report import stages_name
from ldm_registry.report.tables import number, table

WIDTH = 100
MOST_SETTINGS, MOST_TENSORS = 5, 3


def render(found: Crossing) -> str:
    """The comparison as text, at most about fifty lines of a hundred characters."""
    blocks = [
        "\n".join(_verdict(found)),
        _stages(found),
        _crossings(found),
        "\n".join(_last_lines(found)),
    ]
    return "\n\n".join(block for block in blocks if block)


def headline(found: Crossing) -> str:
    """The verdict in one sentence."""
    whom = stages_name(found.stages) if found.stages else ""
    match found.agreement:
        case Agreement.EQUAL:
            return "no difference: bit-equal"
        case Agreement.ROUNDING:
            return f"no difference but rounding of {_precisions(found)}"
        case Agreement.STAGE:
            return f"the {whom} carries the difference (confidence {found.confidence:.0%})"
        case Agreement.TOGETHER if len(found.shares) == 1:
            return f"they differ in {whom}, which cannot be exchanged one by one"
        case Agreement.TOGETHER:
            return f"{whom} together carry the difference (confidence {found.confidence:.0%})"
        case Agreement.SEVERAL:
            return f"they differ, and no stage carries most of it (the largest share: {found.confidence:.0%})"
        case Agreement.UNKNOWN:
            return "the images of the two cannot be compared"


def differing_in_words(one: Parity) -> Iterator[str]:
    """What is to be said about one stage, a line each: settings first, since they are what is changed most easily."""
    yield from one.settings[:MOST_SETTINGS]
    if len(one.settings) > MOST_SETTINGS:
        yield f"and {len(one.settings) - MOST_SETTINGS} more settings"
    if one.module is not None:
        error = one.module_error or 0.0
        by = f"by {error:.2g}" if math.isfinite(error) else "in shape or in what is finite"
        count, compared = one.modules
        own = f"{count} of {compared} modules differ{'s' * (count == 1)} by {'itself' if count == 1 else 'themselves'}"
        yield f"module {one.module} ({one.module_kind}): answers otherwise to the same input, {by}; {own}"
    for tensor in one.tensors[:MOST_TENSORS]:
        yield f"tensor {tensor.name} {list(tensor.shape)}: {tensor.how}"
    if len(one.tensors) > MOST_TENSORS:
        yield f"and {len(one.tensors) - MOST_TENSORS} more tensors"
    yield from one.notes


def _verdict(found: Crossing) -> Iterator[str]:
    yield f"{found.names[0]} against {found.names[1]}: {headline(found)}"
    if found.difference is not None and found.agreement is not Agreement.EQUAL:
        said = f"images differ by {found.difference:.3g} of 255 steps of colour (root mean square)"
        if found.better is not None:
            said += f"; on known images {('the first', 'the second')[found.better]} is the better one"
        elif found.known:
            said += "; on known images neither is better"
        yield from _wrapped(said, "  ")
    first = found.first
    if first is not None:
        place = place_in_words(first)
        yield from _wrapped(f"they part first in the {first.stage}{f': {place}' if place else ''}", "  ")
    for line in found.settings:
        yield from _wrapped(f"not asked the same: {line}; the first's is taken for both", "  ")
    for one in found.parities:
        lead = "  - " if one.match is not Match.EQUAL else "  "
        for line in differing_in_words(one):
            yield from _wrapped(f"{one.stage}: {line}", lead)


def _stages(found: Crossing) -> str:
    shares = {kind: share for stages, share in found.shares.items() if len(stages) == 1 for kind in stages}
    joint = {stages: share for stages, share in found.shares.items() if len(stages) > 1}
    rows = []
    for one in found.parities:
        share = shares.get(one.stage)
        said = "same" if one.stage in found.identical else number(share, 2)
        group = next((stages for stages in joint if one.stage in stages), None)
        if group is not None:
            said = f"{joint[group]:.2f} with {stages_name(group - {one.stage})}"
        rows.append((one.stage.value, size_in_words(one), place_in_words(one, brief=True), said))
    return table(("stage", "given the same input", "parts at", "its share"), rows)


def _crossings(found: Crossing) -> str:
    if len(found.crossed) < 2:
        return ""
    run = [one for one in found.crossed if one.difference is not None]
    rows = [_row(one) for one in run]
    heads = ("stages of the second", "difference", "round trip [dB]", "regeneration [dB]")
    lines = [table(heads, rows, right=(1, 2, 3))]
    refused = [one for one in found.crossed if one.difference is None]
    by_reason: dict[str, list[str]] = {}
    for one in refused:
        by_reason.setdefault(one.reasons[0], []).append(one.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines += _wrapped(f"not crossed: {', '.join(names[:3])}{more}: {reason}", "  ")
    return "\n".join(lines)


def _row(one: Crossed) -> tuple[str, ...]:
    return (
        one.name,
        number(one.difference, 2),
        number(one.round_trip_db, 2),
        number(one.regeneration_db, 2),
    )


def _last_lines(found: Crossing) -> Iterator[str]:
    for note in found.notes:
        yield from _wrapped(note, "")
    way = "quick, " if found.quick else ""
    yield (
        f"{way}{found.images} images from noise, {found.known} known ones, seed {found.seed}, {found.seconds:.1f} s"
    )


def _precisions(found: Crossing) -> str:
    rounded = [one for one in found.parities if one.match in {Match.ROUNDING, Match.DIFFERENT}]
    said = [f"{one.precision} in the {one.stage} ({one.relative_error:.1e})" for one in rounded]
    return ", ".join(said)


def _wrapped(text: str, lead: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))
