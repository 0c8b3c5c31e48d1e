"""How long an AutoencoderKL of 84 million parameters takes to load, here and in diffusers, and how much memory.

Both sides load the same folder from a warm page cache; diffusers loads the whole model, so ours loads both halves.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import networks
import processes
import pytest
import torch
from pair import Pair
from race import Race
from result import Result
from tiny_pipelines import diffusers

from ldm_registry import load_component

pytestmark = [
    pytest.mark.benchmark(group="loading an autoencoder of 84 million parameters"),
    pytest.mark.plugins,
]

OURS = """
import ldm_registry
encoder, decoder = [ldm_registry.load_component(kind, FOLDER) for kind in ("encoder", "decoder")]
print(float(decoder.state_dict()["decoder.conv_out.weight"].sum()))
"""
THEIRS = """
from diffusers import AutoencoderKL
print(float(AutoencoderKL.from_pretrained(FOLDER).decoder.conv_out.weight.sum()))
"""
# A first, small model of the same kind leaves only what the weights take.
MEMORY = """
import ldm_registry
from ldm_registry.costs.resident_memory import MIB, forget_peak, peak_resident_mib

def load(folder):
    return [ldm_registry.load_component(kind, folder) for kind in ("encoder", "decoder")]

load(SMALL)
forget_peak()
before = peak_resident_mib()
halves = load(FOLDER)
weights = sum(t.numel() * t.element_size() for half in halves for t in half.state_dict().values())
print((peak_resident_mib() - before) * MIB / weights)
"""


def saved(folder: Path, widths: tuple[int, ...], *, half: bool = False) -> Path:
    model = networks.codec("AutoencoderKL", widths, layers_per_block=1 if len(widths) == 1 else 2)
    (model.half() if half else model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def widths(smoke: bool) -> tuple[int, ...]:
    """Of the codec of Stable Diffusion 1."""
    return (32, 64) if smoke else (128, 256, 512, 512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, widths: tuple[int, ...]) -> Path:
    """A codec with random weights."""
    return saved(tmp_path_factory.mktemp("vae"), widths)


def test_in_a_warm_process(race: Race, folder: Path) -> None:
    def ours() -> torch.Tensor:
        halves = [load_component(kind, folder) for kind in ("encoder", "decoder")]
        return halves[1].state_dict()["decoder.conv_out.weight"]

    def theirs() -> torch.Tensor:
        return diffusers().AutoencoderKL.from_pretrained(folder).decoder.conv_out.weight

    with_accelerate = "with" if find_spec("accelerate") else "without"
    race("in a warm process", Pair(ours, theirs), note=f"diffusers {with_accelerate} accelerate")


def test_in_a_cold_process(race: Race, folder: Path) -> None:
    def run(code: str) -> torch.Tensor:
        return torch.tensor(float(processes.output(processes.python(code, FOLDER=folder))))

    pair = Pair(lambda: run(OURS), lambda: run(THEIRS))
    race("in a cold process", pair, goal=0.5, note="imports included")


@pytest.mark.parametrize("half", [False, True], ids=["float32 file", "float16 file"])
def test_peak_of_memory(
    race: Race, folder: Path, widths: tuple[int, ...], tmp_path: Path, half: bool
) -> None:
    small = saved(tmp_path / "small", (32,))
    large = saved(tmp_path / "large", widths, half=True) if half else folder
    peak = float(processes.output(processes.python(MEMORY, FOLDER=large, SMALL=small)))
    name = f"peak of memory over the size of the weights, {'float16' if half else 'float32'} file"
    race.found(Result(name, peak, unit="", limit=1.15))
