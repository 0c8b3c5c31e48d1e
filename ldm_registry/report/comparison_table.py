"""A comparison of specs as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_registry.matrix import Failed, failures_in_words
from ldm_registry.report.comparison import Compared, Row, failed, measured, ratio
from ldm_registry.report.tables import number, table

FIGURES: tuple[tuple[str, str, int], ...] = (
    ("values_per_image", "values processed per image", 0),
    ("denoiser_parameters", "parameters of the denoiser", 0),
    ("codec_parameters", "parameters of the codec", 0),
    ("steps", "steps", 0),
    ("step_ms", "time per step, all images [ms]", 1),
    ("image_ms", "time per image [ms]", 1),
    ("decoder_ms", "of which decoding [ms]", 1),
    ("peak_memory_mib", "peak memory above idle [MiB]", 0),
)
BRIEF = {
    "values_per_image": "values/image",
    "denoiser_parameters": "denoiser",
    "codec_parameters": "codec",
    "steps": "steps",
    "step_ms": "step [ms]",
    "image_ms": "image [ms]",
    "decoder_ms": "decoding [ms]",
    "peak_memory_mib": "peak [MiB]",
}
MOST_COLUMNS = 4
"""Specs that stand side by side; more stand below one another."""


def render(rows: Sequence[Row]) -> str:
    """The figures, and why there are none.

    Up to four specs have a column each, and each but the first another one that says how many times less it takes than
    the first. More have a line each.

    Args:
        rows: In the order of the specs.
    """
    compared = measured(rows)
    figures = _side_by_side(compared) if len(compared) <= MOST_COLUMNS else _one_below_another(compared)
    return "\n\n".join(filter(None, [figures if compared else "", failures_in_words(failed(rows))]))


def line(row: Row) -> str:
    """A row that has just been done, on one line.

    Args:
        row: With figures or an error.
    """
    if isinstance(row, Failed):
        return f"{row.name}: {row.error}"
    return f"{row.figures.spec}: {row.figures.image_ms:.0f} ms an image"


def _side_by_side(compared: Sequence[Compared]) -> str:
    if not compared:
        return ""
    header = [_count(compared)]
    for position, one in enumerate(compared):
        header += [one.figures.spec] if position == 0 else [one.figures.spec, "times less"]
    lines = []
    for key, label, digits in FIGURES:
        cells = [label]
        for position, one in enumerate(compared):
            cells.append(number(getattr(one.figures, key), digits))
            if position:
                cells.append(number(ratio(compared[0], one, key), 1))
        lines.append(cells)
    return table(header, lines, right=range(1, len(header)))


def _one_below_another(compared: Sequence[Compared]) -> str:
    header = [_count(compared), *(BRIEF[key] for key, _, _ in FIGURES)]
    lines = [
        [
            one.figures.spec,
            *(number(getattr(one.figures, key), digits) for key, _, digits in FIGURES),
        ]
        for one in compared
    ]
    return table(header, lines, right=range(1, len(header)))


def _count(compared: Sequence[Compared]) -> str:
    return f"{len(compared[0].seeds)} images at once"
