from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_registry.__main__ import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it has to be."""
        return json.loads(self.out)


@pytest.fixture
def ldm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs one command in this process."""

    def run(*words: str | Path) -> Ended:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a distribution with entry points, and optionally its module, on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def write(distribution: str, points: Mapping[str, str], code: str | None = None) -> None:
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {module}\n" for name, module in points.items())
        (info / "entry_points.txt").write_text(f"[ldm_registry]\n{lines}")
        if code is not None:
            (site / f"{next(iter(points.values()))}.py").write_text(code)
        importlib.invalidate_caches()

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(site)):
            del sys.modules[name]


TOY = {
    "encoder.toy-codec": "toy_plugin",
    "denoiser.toy-denoiser": "toy_plugin",
    "scheduler.toy-scheduler": "toy_plugin",
    "decoder.toy-codec": "toy_plugin",
    "schedule.toy_schedule": "toy_plugin",
}
SPEC = """
version: 1
image: {size: 16}
encoder: {use: toy-codec, checkpoint: checkpoints/codec}
denoiser: {use: toy-denoiser, checkpoint: checkpoints/denoiser}
scheduler: {use: toy-scheduler, config: {steps: 3}}
decoder: {use: toy-codec, checkpoint: checkpoints/codec}
condition: {class_label: [0, 2, 1]}
seed: 5
"""


@pytest.fixture
def toy_spec(tmp_path: Path, install: Callable[..., None]) -> Path:
    """A spec of toy parts that runs, with its checkpoints; a second denoiser checkpoint does not fit it."""
    import toy_plugin

    from ldm_registry.contracts import Contract
    from ldm_registry.interfaces import Trained
    from ldm_registry.vocabulary import Prediction
    from ldm_registry.weights import save_checkpoint

    install("toy", TOY)
    folder = tmp_path / "work"
    schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = toy_plugin.CodecConfig()
        codec = [toy_plugin.ToyEncoder(config), toy_plugin.ToyDecoder(config)]
        for name, channels in (("denoiser", 4), ("wide", 6)):
            part = toy_plugin.ToyDenoiser(
                toy_plugin.DenoiserConfig(channels=channels), Trained(Prediction.V, schedule)
            )
            contract = Contract(
                components={"denoiser": "toy-denoiser"},
                prediction=Prediction.V,
                schedule={"name": "toy_schedule"},
            )
            save_checkpoint([part], folder / "checkpoints" / name, contract=contract, card="# toy\n")
    both = Contract(components={"encoder": "toy-codec", "decoder": "toy-codec"})
    save_checkpoint(codec, folder / "checkpoints" / "codec", contract=both, card="# toy\n")
    path = folder / "toy.yaml"
    path.write_text(SPEC)
    return path
