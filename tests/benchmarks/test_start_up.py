"""From nothing to the first image, and what importing costs: fresh processes, files in the page cache."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import processes
import pytest
import torch
from pair import Pair
from race import Race
from result import Result

pytestmark = [pytest.mark.benchmark(group="start in a fresh process"), pytest.mark.plugins]

TORCH = processes.python("import torch")
LIMIT_S = 1.5


def test_first_image(race: Race, tmp_path: Path, smoke: bool) -> None:
    run = [
        sys.executable,
        "-m",
        "ldm_registry",
        "run",
        "emoji-kl-dit",
        "-n",
        "1",
        "--overwrite",
        "-o",
        str(tmp_path),
    ]
    processes.output(run)  # leaves bytecode behind, as an installation does
    turns = [(processes.seconds(TORCH), processes.seconds(run)) for _ in range(1 if smoke else 7)]
    assert list(tmp_path.glob("*.png"))
    alone, whole = (statistics.median(times) for times in zip(*turns, strict=True))
    beyond = statistics.median(image - imported for imported, image in turns)
    note = f"`ldm run emoji-kl-dit -n 1` takes {whole:.2f} s, `import torch` {alone:.2f} s"
    name = "first image of emoji-kl-dit, beyond `import torch`"
    race.found(Result(name, beyond, turns=len(turns), limit=LIMIT_S, note=note))


def test_import_of_what_makes_images(race: Race) -> None:
    def imported(code: str) -> torch.Tensor:
        processes.output(processes.python(code))
        return torch.ones(())

    pair = Pair(
        lambda: imported("from ldm_registry import assemble, load_spec"),
        lambda: imported("from diffusers import DiTPipeline"),
    )
    race("import of what makes images", pair, note="`from diffusers import DiTPipeline`")


@pytest.mark.parametrize("words", ["--help", "list"])
def test_command_that_needs_no_network(race: Race, words: str) -> None:
    def run() -> torch.Tensor:
        processes.output([sys.executable, "-m", "ldm_registry", words])
        return torch.ones(())

    race.alone(f"ldm {words}", run)
