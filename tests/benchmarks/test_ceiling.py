"""What the machine can do at best: the bare operations that networks are held against."""

from __future__ import annotations

import pytest
import torch
from race import Race
from result import Result

from ldm_registry.costs.ceiling import measured

pytestmark = pytest.mark.benchmark(group="bare operations")


def test_bare_operations(race: Race, smoke: bool) -> None:
    tell(race, torch.float32, smoke)


def test_bare_operations_of_an_accelerator(gpu_race: Race, smoke: bool) -> None:
    tell(gpu_race, torch.bfloat16, smoke)


def tell(race: Race, dtype: torch.dtype, smoke: bool) -> None:
    best = measured(race.device, dtype, 0.01 if smoke else 4.0)
    of_type = str(dtype).removeprefix("torch.")
    rates = {"3x3 convolution": best.convolution_flop_s, "matrix product": best.matmul_flop_s}
    race.found(
        *(Result(f"{name}, {of_type}", rate, "FLOP/s") for name, rate in rates.items() if rate is not None),
        Result(f"copy, {of_type}", best.copy_byte_s, "B/s"),
    )
