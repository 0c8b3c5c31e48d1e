"""One forward pass of each network, against diffusers on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from network_cases import DIT, PIXART, UNET, UNET_CONDITION, Case, contestants
from race import Race

pytestmark = [pytest.mark.benchmark(group="networks, float32"), pytest.mark.plugins]


@pytest.mark.parametrize(
    ("case", "batch"),
    [(UNET, 1), (UNET_CONDITION, 1), (DIT, 1), (DIT, 4), (PIXART, 1)],
    ids=lambda value: value.kind if isinstance(value, Case) else f"batch {value}",
)
def test_forward(race: Race, case: Case, batch: int, tmp_path: Path, smoke: bool) -> None:
    both = contestants(case, batch, tmp_path / "model", smoke=smoke)
    race(f"{case.label}, batch {batch}", both.pair(), goal=case.goal, dtype=torch.float32)
