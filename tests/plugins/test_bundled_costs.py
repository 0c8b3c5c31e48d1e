from __future__ import annotations

from typing import Any

import pytest
import torch
from costs.toy_bench import HASTY, known_rates
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ldm_registry.assembly import assemble
from ldm_registry.costs import bench as bench_module
from ldm_registry.costs.bench import bench
from ldm_registry.costs.operations import counted
from ldm_registry.costs.part_calls import Case, PartCall, part_calls
from ldm_registry.costs.result import Achieved, Bench
from ldm_registry.report.bench import render
from ldm_registry.report.html.bench_plot import render_svg
from ldm_registry.spec import bundled_specs, load_spec, swap

pytestmark = [pytest.mark.plugins, pytest.mark.slow]


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
"""Without it the counter of torch takes attention on a CPU for nothing."""


def short(name: str) -> Bench:
    return bench(assemble(swap(load_spec(name), scheduler_config={"steps": 3})), effort=HASTY)


@pytest.mark.parametrize("name", sorted(bundled_specs()))
def test_every_bundled_spec_has_its_costs_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "emoji-kl-dit":
        monkeypatch.setattr(bench_module, "measured", known_rates)
    found = short(name)
    assert all(part.cost is not None for part in found.parts)
    assert found.run.times is not None
    shares = [Achieved.of(part.cost, found.ceiling(part)).of_compute for part in found.parts if part.cost]
    assert all(share is None or 0.0 < share < 5.0 for share in shares)
    assert name in render(found)
    assert render_svg(found).endswith("</svg>")
    refused = {why for part in found.parts for _, why in part.with_pixels.refused}
    assert refused == ({"works on latents of 8 x 8 alone"} if name == "emoji-kl-ideal" else set())


@pytest.mark.parametrize("name", ["emoji-kl-dit", "emoji-kl-unet", "emoji-vq-dit"])
def test_operations_are_as_many_as_the_counter_of_torch_finds(name: str) -> None:
    pipe = assemble(load_spec(name))
    for call in part_calls(pipe, Case(1, 64, 64), seed=0).values():
        assert isinstance(call, PartCall)
        with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            call.run()
        with torch.inference_mode():
            assert counted(call.run).flops == counter.get_total_flops()
