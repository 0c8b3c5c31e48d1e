"""Whole tiny pipelines from seed and prompt to image, 50 steps, here and in diffusers from the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from pair import Pair
from race import Race
from torch import Tensor

from ldm_registry.assembly import assemble
from ldm_registry.interchange import Wishes, import_pipeline, write
from ldm_registry.spec import load_spec

pytestmark = [
    pytest.mark.benchmark(group="whole tiny pipelines, 50 steps, one image"),
    pytest.mark.plugins,
    # diffusers and transformers use each other in ways that newer releases of either deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SEED = 5
PIPELINES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddpm": ("DDPM, pixels", {"batch_size": 1}, {}),
    "dit": ("DiT with guidance 4", {"class_labels": [3], "guidance_scale": 4.0}, {"class_label": [3]}),
    "sd": ("Stable Diffusion", {"prompt": ["a red kite"]}, {"prompt": ["a red kite"]}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_from_seed_to_image(race: Race, name: str, tmp_path: Path, smoke: bool) -> None:
    label, call, condition = PIPELINES[name]
    steps, folder, path = 3 if smoke else 50, tmp_path / name, tmp_path / "spec.yaml"
    getattr(tiny_pipelines, name)(folder)
    write(import_pipeline(folder, path, Wishes(steps=steps)), path)
    pipe, reference = assemble(load_spec(path)), tiny_pipelines.opened(folder)

    def ours() -> Tensor:
        return pipe.sample(1, seed=SEED, condition=condition or None) / 2 + 0.5

    def theirs() -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        images = reference(generator=generator, num_inference_steps=steps, output_type="np", **call).images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    race(label, Pair(ours, theirs, tolerance=1e-3), goal=0.85)
