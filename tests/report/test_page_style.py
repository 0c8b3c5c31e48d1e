from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = files("ldm_registry.report.html").joinpath("style.css").read_text("utf-8")
THEMES = dict(zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL), strict=True))
ON_PAPER = [(colour, paper) for colour in ("ink", "quiet", "link") for paper in ("paper", "card")]
ON_BADGES = [(kind, f"{kind}-paper") for kind in ("bad", "note", "good", "none")]
LINES = [(f"k{index}", paper) for index in range(6) for paper in ("paper", "card")]
EDGES = [(kind, paper) for kind in ("bad", "note", "good") for paper in ("paper", "card")]


def colours(theme: str) -> dict[str, str]:
    """The colours of a theme; what it leaves out it takes from the light one."""
    return dict(re.findall(r"--([\w-]+): (#\w+);", THEMES["light"] + THEMES[theme]))


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_its_definition_has_it() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_its_ground_in_every_theme(theme: str) -> None:
    known = colours(theme)
    pairs = [*ON_PAPER, *ON_BADGES, ("ink", "note-paper")]
    low = {pair: contrast(known[pair[0]], known[pair[1]]) for pair in pairs}
    assert {pair: value for pair, value in low.items() if value < 4.5} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_lines_and_edges_that_mean_something_stand_out_too(theme: str) -> None:
    known = colours(theme)
    low = {pair: contrast(known[pair[0]], known[pair[1]]) for pair in [*LINES, *EDGES]}
    assert {pair: value for pair, value in low.items() if value < 3.0} == {}


def test_nothing_moves_and_what_has_the_focus_is_outlined() -> None:
    assert not re.search(r"animation|transition|scroll-behavior|@keyframes", STYLE)
    assert re.search(r":focus-visible \{ outline: 3px solid var\(--link\)", STYLE)
    assert re.findall(r"([^{}]*)\{[^{}]*outline: none", STYLE) == ["\nmain:focus "]
