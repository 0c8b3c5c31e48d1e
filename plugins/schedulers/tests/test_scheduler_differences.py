"""Where samplers differ from diffusers on purpose: the table of docs/interop.md, measured again."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("diffusers")

import oracle_distance
from scheduler_grid import FAMILIES

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DOCUMENT = Path(__file__).parents[3] / "docs" / "interop.md"
CLASSES = {family.sampler.diffusers_class: family.sampler for family in FAMILIES.values()}
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def rows() -> list[tuple[str, dict[str, Any], int, float, float]]:
    """(class, options, steps, theirs, ours) of every row about a class of the grid."""
    found = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        stated = re.findall(r"`([^`]+)`", cells[0])
        steps = re.search(r"(\d+) steps$", cells[0])
        if len(cells) != 5 or steps is None or stated[0] not in CLASSES:
            continue
        options = {key: value for text in stated[1:] for key, value in yaml.safe_load(text).items()}
        found.append((stated[0], options, int(steps[1]), float(cells[3]), float(cells[4])))
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
    config = {
        **BETAS,
        **({"clip_sample": False} if name in ("DDIMScheduler", "DDPMScheduler") else {}),
        **options,
    }
    sampler = CLASSES[name]
    assert sampler.from_diffusers(config).differences
    assert oracle_distance.theirs(sampler, config, steps) == pytest.approx(theirs, rel=0.05, nan_ok=True)
    assert oracle_distance.ours(sampler, config, steps) == pytest.approx(ours, rel=0.05)


def test_every_kind_of_difference_has_a_row_that_shows_it() -> None:
    listed = {
        difference
        for name, options, *_ in rows()
        for difference in CLASSES[name].from_diffusers({**BETAS, **options}).differences
    }
    everywhere = {
        difference
        for family in FAMILIES.values()
        for options in family.covering()
        for difference in family.sampler.from_diffusers(options).differences
    }
    # Learned variances are noisy in the last step just as fixed_large is.
    assert {text for text in everywhere if "learned" not in text} <= listed


def test_no_row_is_worse_here_but_where_the_method_itself_costs_more() -> None:
    worse = [
        (name, steps) for name, _, steps, theirs, ours in rows() if not math.isnan(theirs) and ours > theirs
    ]
    assert worse == [("DDIMScheduler", 50), ("PNDMScheduler", 8)]
