"""One forward pass of each network, against diffusers on the same weights; and what of it nobody can leave out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bare import bare
from network_cases import DIT, PIXART, UNET, UNET_CONDITION, Case, contestants
from pair import Pair
from race import Race

pytestmark = [pytest.mark.benchmark(group="networks, float32"), pytest.mark.plugins]


CASES = pytest.mark.parametrize(
    ("case", "batch"),
    [(UNET, 1), (UNET, 4), (UNET_CONDITION, 1), (DIT, 1), (DIT, 4), (PIXART, 1)],
    ids=lambda value: value.kind if isinstance(value, Case) else f"batch {value}",
)


@CASES
def test_forward(race: Race, case: Case, batch: int, tmp_path: Path, smoke: bool) -> None:
    both = contestants(case, batch, tmp_path / "model", smoke=smoke)
    race(f"{case.label}, batch {batch}", both.pair(), goal=case.goal, dtype=torch.float32)


@CASES
def test_bare_operations_of_it(race: Race, case: Case, batch: int, tmp_path: Path, smoke: bool) -> None:
    diffusers = contestants(case, batch, tmp_path / "model", smoke=smoke).pair().diffusers
    name = f"{case.label}, batch {batch}: bare products, convolutions and attention of diffusers"
    race(name, Pair(bare(diffusers), diffusers))
