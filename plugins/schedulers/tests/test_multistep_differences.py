"""Where the multistep samplers differ from diffusers on purpose: their rows in docs/interop.md, measured again."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("diffusers")

import multistep_grid as grid
import oracle_distance
from multistep_parity import SAMPLERS

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::FutureWarning"
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "interop.md"
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def rows() -> list[tuple[str, dict[str, Any], int, float, float]]:
    """(class, options, steps, theirs, ours) of every row about a multistep class."""
    found = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        stated = re.findall(r"`([^`]+)`", cells[0])
        steps = re.search(r"(\d+) steps$", cells[0])
        if len(cells) != 5 or steps is None or stated[0] not in SAMPLERS:
            continue
        options = {key: value for text in stated[1:] for key, value in yaml.safe_load(text).items()}
        found.append((stated[0], {**BETAS, **options}, int(steps[1]), float(cells[3]), float(cells[4])))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "steps", "theirs", "ours"),
    rows(),
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_table_says_what_is_measured(
    name: str, options: dict[str, Any], steps: int, theirs: float, ours: float
) -> None:
    sampler = SAMPLERS[name]
    assert sampler.from_diffusers(options).differences
    assert oracle_distance.theirs(sampler, options, steps) == pytest.approx(theirs, rel=0.05, nan_ok=True)
    assert oracle_distance.ours(sampler, options, steps) == pytest.approx(ours, rel=0.05)


def test_every_kind_of_difference_has_a_row_that_shows_it() -> None:
    def kinds(name: str, options: dict[str, Any]) -> set[str]:
        # What a sentence says after naming the option that brings it about.
        return {text.split(": ", 1)[1] for text in SAMPLERS[name].from_diffusers(options).differences}

    listed = {kind for name, options, *_ in rows() for kind in kinds(name, options)}
    everywhere = {
        kind
        for name in (grid.DPM, grid.UNIPC)
        for options in grid.covering(name)
        for kind in kinds(name, options)
    }
    # There is nothing to measure where diffusers has no such step.
    assert {kind for kind in everywhere if "has none and fails" not in kind} <= listed


def test_no_row_is_worse_here() -> None:
    found = rows()
    assert len(found) >= 20
    assert not [row for row in found if not math.isnan(row[3]) and row[4] > row[3]]
