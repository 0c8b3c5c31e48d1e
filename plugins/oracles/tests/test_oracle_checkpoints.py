from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import ldm_oracles
import pytest
import torch
from ldm_oracles import (
    GaussianConfig,
    GaussianDenoiser,
    GaussianMixtureConfig,
    GaussianMixtureDenoiser,
    IdealConfig,
    IdealDenoiser,
)
from torch import Tensor

from ldm_registry.interfaces import Denoiser, NoiseLevel
from ldm_registry.trainable import Fittable
from ldm_registry.weights import load_weights, parse_config, read_config, save_checkpoint

Draw = Callable[..., Tensor]
LABELS = torch.tensor([0, 1, 2, 2, 0, 1])


def unfitted() -> list[Any]:
    return [
        GaussianDenoiser(GaussianConfig()),
        GaussianDenoiser(GaussianConfig(covariance="diagonal")),
        GaussianDenoiser(GaussianConfig(covariance="full")),
        GaussianDenoiser(GaussianConfig(covariance="full", rank=3)),
        GaussianMixtureDenoiser(GaussianMixtureConfig(components=2)),
        GaussianMixtureDenoiser(GaussianMixtureConfig(components=2, means=(0, 1), stds=(1, 1))),
        IdealDenoiser(IdealConfig()),
        IdealDenoiser(IdealConfig(classes=3)),
    ]


@pytest.mark.parametrize("index", range(len(unfitted())))
def test_what_was_fitted_and_saved_loads_onto_the_meta_device_bit_for_bit(
    tmp_path: Path, normal: Draw, index: int
) -> None:
    denoiser = unfitted()[index]
    assert isinstance(denoiser, Fittable)
    condition = {"class_label": LABELS} if denoiser.conditioning else {}
    config = denoiser.fit(normal(6, 2, 4, 3).float(), condition)
    save_checkpoint([denoiser], tmp_path, contract=None, card="")
    assert parse_config(type(denoiser), read_config(tmp_path), "config.json") == config
    with torch.device("meta"):
        loaded: Denoiser = type(denoiser)(config)
    load_weights(loaded, tmp_path)
    z, level = normal(3, 2, 4, 3).float(), NoiseLevel.of(0.6, 0.8)
    asked = {name: label[:3] for name, label in condition.items()}
    assert torch.equal(loaded(z, level, asked).prediction, denoiser(z, level, asked).prediction)
    assert loaded.latent_space == denoiser.latent_space
    assert loaded.latent_size == denoiser.latent_size
    assert dict(loaded.conditioning) == dict(denoiser.conditioning)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_output_has_the_dtype_of_the_input(normal: Draw, dtype: torch.dtype) -> None:
    for denoiser in unfitted():
        denoiser.fit(normal(6, 2, 4, 3).float(), {})
        z = normal(3, 2, 4, 3).to(dtype)
        assert denoiser(z, NoiseLevel.of(0.6, 0.8), {}).prediction.dtype == dtype


def test_entry_points_declare_exactly_what_the_plugin_returns() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["ldm_registry"]
    returned = {f"{component.kind}.{component.name}" for component in ldm_oracles.register_components()}
    assert set(points) == returned
    assert all(EntryPoint(name, value, "").load() is ldm_oracles for name, value in points.items())
