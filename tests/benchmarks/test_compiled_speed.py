"""Networks that run compiled, as `runtime: {compile: true}` asks for, against diffusers under `torch.compile`."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from network_cases import DIT, contestants
from race import Race

from ldm_registry.runtime.compiled import CompiledCall
from ldm_registry.runtime.entry import put_in

pytestmark = [
    pytest.mark.benchmark(group="compiled networks, float32"),
    pytest.mark.plugins,
    # What PyTorch says to itself while it compiles.
    pytest.mark.filterwarnings("ignore"),
]

SHORT = replace(
    DIT,
    label="DiT-S/2 of 4 blocks, 32x32 latent",
    config={**DIT.config, "num_layers": 4},
    small={"num_layers": 1},
)


def test_forward(race: Race, tmp_path: Path, smoke: bool) -> None:
    both = contestants(SHORT, 1, tmp_path / "model", smoke=smoke)
    eager_s = []
    with torch.inference_mode():
        for _ in range(2 if smoke else 10):
            begin = time.perf_counter()
            both.pair().ours()
            eager_s.append(time.perf_counter() - begin)
    put_in(both.denoiser, CompiledCall(both.denoiser))
    both.network.compile(dynamic=False)
    begin = time.perf_counter()
    both.pair().ours()
    compiling_s = time.perf_counter() - begin
    note = f"ours uncompiled: {statistics.median(eager_s) * 1e3:.0f} ms; compiled in {compiling_s:.0f} s"
    race(f"{SHORT.label}, batch 1", both.pair(), dtype=torch.float32, note=note)
