"""Samplers built from configs of diffusers walk diffusers' trajectories, over the whole grid of its options.

`scheduler_grid` says what is compared, and which faults of diffusers are repaired on its side for the comparison:
each of them is one that `from_diffusers` lists, and that docs/interop.md measures.
"""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("diffusers")

import scheduler_grid
import torch
from diffusers_in_double import double
from scheduler_grid import FAMILIES, STEPS

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates, and divides by zero where sigma or alpha is 0.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
]

FEW, MOST = STEPS[:3], STEPS[:4]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_covering_subset_walks_the_trajectories_of_diffusers(family: str) -> None:
    outcomes = scheduler_grid.run(scheduler_grid.covering(family, FEW))
    assert outcomes["equal"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_walks_the_trajectories_of_diffusers(family: str) -> None:
    outcomes = scheduler_grid.run(scheduler_grid.every(family, MOST))
    assert outcomes["equal"] > 0.15 * outcomes.total()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_covering_subset_walks_the_trajectories_of_diffusers_in_a_thousand_steps(family: str) -> None:
    assert scheduler_grid.run(scheduler_grid.covering(family, STEPS[4:], more=False))["equal"] > 0


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("flow")])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_an_offset_of_steps_is_heeded_by_leading_alone(family: str, spacing: str) -> None:
    sampler, reference_class = FAMILIES[family].sampler, FAMILIES[family].reference
    configs = [{"timestep_spacing": spacing, "steps_offset": offset} for offset in (0, 1)]
    one, other = (sampler.from_diffusers(config) for config in configs)
    assert (one.config, one.schedule, one.differences) == (other.config, other.schedule, other.differences)
    references = [reference_class(**config) for config in configs]
    for reference in references:
        reference.set_timesteps(13)
    assert references[0].timesteps.tolist() == references[1].timesteps.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_covering_subset_has_every_pair_of_choices(family: str) -> None:
    axes = [*FAMILIES[family].axes, *FAMILIES[family].more]
    rows = scheduler_grid.pairwise(axes)
    for one, other in itertools.combinations(range(len(axes)), 2):
        pairs = {(row[one], row[other]) for row in rows}
        assert pairs == set(itertools.product(range(len(axes[one])), range(len(axes[other]))))


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_in_double_is_diffusers_up_to_its_rounding(family: str) -> None:
    reference = FAMILIES[family].reference
    narrow = reference()
    narrow.set_timesteps(10)
    with double(reference):
        wide = reference()
        wide.set_timesteps(10)
    assert wide.timesteps.tolist() == pytest.approx(narrow.timesteps.tolist(), rel=1e-6)
    table = "alphas_cumprod" if hasattr(narrow, "alphas_cumprod") else "sigmas"
    assert getattr(wide, table).dtype is torch.float64
    torch.testing.assert_close(getattr(wide, table).float(), getattr(narrow, table), rtol=1e-4, atol=1e-8)
