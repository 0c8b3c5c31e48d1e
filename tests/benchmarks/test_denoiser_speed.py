"""One forward pass of each network, against diffusers on the same weights; and what of it nobody can leave out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from bare import bare
from network_cases import DIT, PIXART, UNET, UNET_CONDITION, Contestants, contestants
from pair import Pair
from race import Race

pytestmark = [pytest.mark.benchmark(group="networks, float32"), pytest.mark.plugins]


CASES = [(UNET, 1), (UNET, 4), (UNET_CONDITION, 1), (DIT, 1), (DIT, 4), (PIXART, 1)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].kind}, batch {case[1]}")
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smoke: bool
) -> Iterator[Contestants]:
    case, batch = request.param
    folder = tmp_path_factory.mktemp("model")
    yield contestants(case, batch, folder / "model", smoke=smoke)
    shutil.rmtree(folder)


def label(both: Contestants) -> str:
    return f"{both.case.label}, batch {len(both.z)}"


def test_forward(race: Race, both: Contestants) -> None:
    race(label(both), both.pair(), goal=both.case.goal, dtype=torch.float32)


def test_bare_operations_of_it(race: Race, both: Contestants) -> None:
    diffusers = both.pair().diffusers
    name = f"{label(both)}: bare products, convolutions and attention of diffusers"
    race(name, Pair(bare(diffusers), diffusers))
