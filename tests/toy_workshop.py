"""The toy plugins as if they were installed, and specs of theirs that any process can assemble."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import toy_plugin

from ldm_registry.contracts import Contract
from ldm_registry.interfaces import Trained
from ldm_registry.vocabulary import Prediction
from ldm_registry.weights import save_checkpoint

POINTS = """[ldm_registry]
encoder.toy-codec = toy_plugin
denoiser.toy-denoiser = toy_plugin
scheduler.toy-scheduler = toy_plugin
decoder.toy-codec = toy_plugin
schedule.toy_schedule = toy_plugin
scheduler.toy-trouble = toy_trouble
"""


def installed(site: Path, name: str = "toy", version: str = "1.0", points: str = POINTS) -> Path:
    """A folder that, on the path of a process, makes a distribution installed there."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)
    return site


def search_path(*sites: Path) -> str:
    """PYTHONPATH of a process that finds the distributions of these folders and the toy plugins' modules."""
    tests = Path(__file__).parent
    return os.pathsep.join([*map(str, sites), str(tests)])


def toy_spec(
    folder: Path, size: int = 16, scheduler: str = "{use: toy-scheduler, config: {steps: 3}}"
) -> Path:
    """A spec of toy parts with its checkpoints."""
    schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = toy_plugin.CodecConfig()
        codec = [toy_plugin.ToyEncoder(config), toy_plugin.ToyDecoder(config)]
        part = toy_plugin.ToyDenoiser(toy_plugin.DenoiserConfig(), Trained(Prediction.V, schedule))
    of_denoiser = Contract(
        components={"denoiser": "toy-denoiser"}, prediction=Prediction.V, schedule={"name": "toy_schedule"}
    )
    of_codec = Contract(components={"encoder": "toy-codec", "decoder": "toy-codec"})
    save_checkpoint([part], folder / "denoiser", contract=of_denoiser, card="# toy\n")
    save_checkpoint(codec, folder / "codec", contract=of_codec, card="# toy\n")
    path = folder / "toy.yaml"
    path.write_text(f"""version: 1
image: {{size: {size}}}
encoder: {{use: toy-codec, checkpoint: codec}}
denoiser: {{use: toy-denoiser, checkpoint: denoiser}}
scheduler: {scheduler}
decoder: {{use: toy-codec, checkpoint: codec}}
condition: {{class_label: [0, 2, 1]}}
""")
    return path
