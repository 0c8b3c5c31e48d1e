"""How long an AutoencoderKL of 84 million parameters takes to load, here and in diffusers, and how much memory.

Run with `pytest -m slow tests/benchmarks/test_loading.py -s`. Both sides load the same folder from a warm page
cache, in turns; diffusers loads the whole model, so ours loads both halves.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.plugins]

ROUNDS = 15
COLD_ROUNDS = 3

OURS = """
import ldm_registry
halves = [ldm_registry.load_component(kind, FOLDER) for kind in ("encoder", "decoder")]
"""
THEIRS = """
from diffusers import AutoencoderKL
model = AutoencoderKL.from_pretrained(FOLDER)
"""
# A first, small model of the same kind leaves only what the weights take.
MEMORY = """
import ldm_registry, sys

def peak_kib():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def load(folder):
    return [ldm_registry.load_component(kind, folder) for kind in ("encoder", "decoder")]

load(SMALL)
before = peak_kib()
halves = load(FOLDER)
weights = sum(t.numel() * t.element_size() for half in halves for t in half.state_dict().values())
print((peak_kib() - before) * 1024 / weights)
"""


def save(folder: Path, widths: tuple[int, ...], layers: int, half: bool = False) -> Path:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=layers,
    )
    (model.half() if half else model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The codec of Stable Diffusion 1, with random weights."""
    return save(tmp_path_factory.mktemp("vae"), (128, 256, 512, 512), 2)


def script(code: str, **names: Path) -> str:
    return "".join(f"{name} = {json.dumps(str(path))}\n" for name, path in names.items()) + code


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    begin = time.perf_counter()
    kept = work()
    taken = time.perf_counter() - begin
    del kept
    return taken


def test_loading_both_halves_in_a_warm_process(folder: Path, benchmark: pytest.FixtureRequest) -> None:
    from diffusers import AutoencoderKL

    from ldm_registry import load_component

    def ours() -> object:
        return [load_component(kind, folder) for kind in ("encoder", "decoder")]

    def theirs() -> object:
        return AutoencoderKL.from_pretrained(folder)

    ours(), theirs()
    turns = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    mine, others = (statistics.median(column) for column in zip(*turns, strict=True))
    info = {"ours_ms": mine * 1e3, "diffusers_ms": others * 1e3, "ratio": mine / others}
    benchmark.extra_info.update(info)  # type: ignore[attr-defined]  # pytest-benchmark has no types
    print({name: round(value, 2) for name, value in info.items()})
    benchmark.pedantic(ours, rounds=3)  # type: ignore[attr-defined]  # as above


def test_a_cold_process_takes_at_most_half_as_long(folder: Path) -> None:
    def run(code: str) -> Callable[[], object]:
        words = [sys.executable, "-c", script(code, FOLDER=folder)]
        return lambda: subprocess.run(words, check=True, capture_output=True)

    turns = [(seconds(run(OURS)), seconds(run(THEIRS))) for _ in range(COLD_ROUNDS)]
    mine, others = (min(column) for column in zip(*turns, strict=True))
    print({"ours_s": round(mine, 2), "diffusers_s": round(others, 2), "ratio": round(mine / others, 2)})
    assert mine <= 0.5 * others


@pytest.mark.parametrize("half", [False, True], ids=["float32 file", "float16 file"])
def test_the_peak_of_memory_is_little_more_than_the_weights(folder: Path, tmp_path: Path, half: bool) -> None:
    small = save(tmp_path / "small", (32,), 1)
    large = save(tmp_path / "large", (128, 256, 512, 512), 2, half=True) if half else folder
    code = script(MEMORY, FOLDER=large, SMALL=small)
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    ratio = float(ended.stdout)
    print({"peak / weights": round(ratio, 3)})
    assert 0.5 < ratio <= 1.15
