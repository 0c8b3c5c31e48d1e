"""Every published checkpoint whose class diffusers has opens there too, as others pull it, and computes the same."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import LoopbackHub

from ldm_registry.assembly import load_component
from ldm_registry.interfaces import Decoder, Denoiser
from ldm_registry.spec import bundled_dir
from ldm_registry.travel.pull import obtain
from ldm_registry.travel.references import parse_reference

CHECKPOINTS = sorted((bundled_dir() / "checkpoints").glob("*"))
WITHOUT_A_CLASS = {"emoji-kl-ideal"}

pytestmark = [pytest.mark.slow, pytest.mark.plugins]


@pytest.fixture
def published(hub: LoopbackHub, ldm: Callable[..., Any]) -> Callable[[Path], Path]:
    """Publishes a checkpoint, and gives the folder of somebody who pulled it."""

    def run(checkpoint: Path) -> Path:
        said = ldm("push", checkpoint, f"org/{checkpoint.name}", "--json").document
        return obtain(parse_reference(f"hf://org/{checkpoint.name}@{said['commit']}")).folder

    return run


@pytest.mark.parametrize(
    "checkpoint",
    [path for path in CHECKPOINTS if path.name not in WITHOUT_A_CLASS],
    ids=lambda path: path.name,
)
def test_a_published_checkpoint_opens_in_diffusers(
    checkpoint: Path, published: Callable[[Path], Path]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

    folder = published(checkpoint)
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    model, said = getattr(diffusers, name).from_pretrained(
        folder, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(said.values()), said
    model.eval()
    contract = json.loads((folder / "contract.json").read_text())
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        if "decoder" in contract["components"]:
            ours = load_component("decoder", folder)
            assert isinstance(ours, Decoder)
            theirs, made = _decoded(model, ours, folder, contract["latent_channels"], generator)
        else:
            part = load_component("denoiser", folder)
            assert isinstance(part, Denoiser)
            theirs, made = _denoised(model, part, contract, generator)
    assert float((theirs - made).abs().max() / theirs.abs().max()) < 2e-5


def _decoded(
    model: Any, ours: Decoder, folder: Path, channels: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image from the same latent: diffusers decodes what has the scale of the codec, ours what has none."""
    latent = torch.randn(2, channels, 8, 8, generator=generator)
    stated = json.loads((folder / "config.json").read_text())
    # VQModel has no such keys, so that ours begin with an underscore there.
    held = {key: stated.get(key, stated.get(f"_{key}")) for key in ("latents_mean", "latents_std")}
    mean, std = (torch.tensor(held[key]).view(1, -1, 1, 1) for key in held)
    raw = latent * std / stated.get("scaling_factor", 1.0) + mean
    return model.decode(raw).sample, ours.decode(latent)


def _denoised(
    model: Any, ours: Denoiser, contract: Any, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same network output at one time of the schedule that it was trained under."""
    schedule = ours.training_schedule
    assert schedule is not None
    height, width = contract["latent_sizes"][0]
    z = torch.randn(2, contract["latent_channels"], height, width, generator=generator)
    low, high = schedule.time_range
    time = torch.tensor(400.0 if high > 400.0 else low + 0.4 * (high - low), dtype=torch.float64)
    told = torch.full((2,), float(time) * contract["time_scale"])
    labels = torch.tensor([1, 3])
    prediction = ours(z, schedule.level(time).normalised(), {"class_label": labels}).prediction
    theirs = model(z, told, class_labels=labels).sample
    return theirs[:, : prediction.shape[1]], prediction
