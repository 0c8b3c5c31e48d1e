from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from ldm_registry.assembly import assemble
from ldm_registry.diagnostics import diagnose
from ldm_registry.diagnostics.injection import injected
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec

pytestmark = [pytest.mark.plugins, pytest.mark.slow]
SEEDS = range(10)
FAULTS = {
    "unit-range-input": ("emoji-kl-ideal", "encoder"),
    "reversed-velocity": ("emoji-kl-dit", "denoiser"),
    "clipped-x0": ("emoji-kl-ideal", "scheduler"),
    "corrupted-decoder-weights": ("emoji-kl-ideal", "decoder"),
}
HIDING = """
import json, sys
{hide}
from ldm_registry.assembly import assemble
from ldm_registry.diagnostics import diagnose
from ldm_registry.spec import load_spec, swap
spec = swap(load_spec("emoji-kl-dit"), scheduler="ddim", scheduler_config={{"steps": 20, "clip": 1.0}})
print(json.dumps(diagnose(assemble(spec), quick=True).to_document()))
"""
HIDE = """
import importlib.metadata as metadata
found = metadata.entry_points
metadata.entry_points = lambda **given: metadata.EntryPoints(
    one for one in found(**given) if not one.value.startswith("ldm_faults")
)
sys.modules["ldm_faults"] = None
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_ten_seeds_name_the_same_stage(fault: str) -> None:
    name, stage = FAULTS[fault]
    pipe = assemble(injected(load_spec(name), fault, Registry.discover()))
    named = {diagnose(pipe, quick=True, seed=seed).verdict.stage for seed in SEEDS}
    assert len(named) == 1
    assert stage in named.pop().split("/")


def test_ten_seeds_of_a_healthy_pipeline_are_healthy() -> None:
    pipe = assemble(load_spec("emoji-kl-ideal"))
    assert {diagnose(pipe, quick=True, seed=seed).verdict.stage for seed in SEEDS} == {"healthy"}


def test_a_verdict_is_the_same_where_the_faults_are_not_installed() -> None:
    with_faults, without = (_document(HIDING.format(hide=hide)) for hide in ("", HIDE))
    assert with_faults["verdict"]["stage"] == "scheduler"
    assert _timeless(without) == _timeless(with_faults)


def _document(program: str) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(done.stdout)


def _timeless(value: Any) -> Any:
    """A document without its wall times and costs."""
    if isinstance(value, Mapping):
        return {name: _timeless(one) for name, one in value.items() if name not in {"seconds", "costs"}}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
