"""A pipeline of toy parts, and a bench of it that takes no time."""

from __future__ import annotations

from pathlib import Path

import torch
import toy_plugin
import toy_text

from ldm_registry.assembly import assemble
from ldm_registry.costs.ceiling import Ceiling
from ldm_registry.costs.series import Effort
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec

HASTY = Effort("hasty", (1.0, 2.0), (1, 3), part_s=0.0, ceiling_s=0.0, run_s=0.0, longest_run_ms=1e6)
STEPS = 5
SPEC = f"""
version: 1
image: {{channels: 3, size: [16, 8]}}
encoder: {{use: toy-codec}}
denoiser: {{use: toy-denoiser, trained: {{prediction: v, schedule: {{name: toy_schedule}}}}}}
scheduler: {{use: toy-scheduler, config: {{steps: {STEPS}}}}}
decoder: {{use: toy-codec}}
condition: {{class_label: [0, 2, 1]}}
guidance: {{scale: 1.5}}
seed: 11
"""
TEXT_SPEC = """
version: 1
image: {channels: 3, size: [16, 8]}
encoder: {use: toy-codec}
denoiser: {use: toy-reader, trained: {prediction: v, schedule: {name: toy_schedule}}}
scheduler: {use: toy-scheduler, config: {steps: 3}}
decoder: {use: toy-codec}
conditioners:
  text: {use: toy-writer}
  size: {use: toy-ruler}
condition: {prompt: [one, two]}
guidance: {scale: 2.0}
"""


def known_rates(device: torch.device, dtype: torch.dtype, seconds: float) -> Ceiling:
    """Stand for the best rates, which take a second to measure."""
    return Ceiling(str(device), str(dtype).removeprefix("torch."), 5e10, 4e10, 1e10)


def toy_pipe(folder: Path, text: str = SPEC) -> Pipeline:
    path = folder / "toys.yaml"
    path.write_text(text)
    return assemble(load_spec(path), Registry([toy_plugin, toy_text]), init_seed=4)
