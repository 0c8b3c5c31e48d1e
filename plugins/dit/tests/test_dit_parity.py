"""The network against diffusers' `DiTTransformer2DModel`, in the same process and on the same weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_dit import DiT, DiTConfig
from ldm_dit.patches import position_embedding
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel

DiTTransformer2DModel = pytest.importorskip("diffusers").DiTTransformer2DModel
embeddings = pytest.importorskip("diffusers.models.embeddings")

CONFIGS: list[dict[str, Any]] = [
    {},
    {"out_channels": 8},
    {"in_channels": 3, "patch_size": 8, "sample_size": 16},
    {"in_channels": 3, "out_channels": 6, "patch_size": 4, "num_layers": 1},
    {"num_attention_heads": 3, "attention_head_dim": 12, "num_layers": 3},
    {"patch_size": 1, "sample_size": 5},
    {"sample_size": 9},
    {"attention_bias": False},
    {"norm_elementwise_affine": True, "norm_eps": 1e-2},
    {"dropout": 0.3, "upcast_attention": True},
    {"num_embeds_ada_norm": 30, "activation_fn": "gelu"},
    {"activation_fn": "geglu"},
    {"activation_fn": "geglu-approximate"},
    {"activation_fn": "swiglu"},
    {"activation_fn": "linear-silu"},
]


def reference(network: DiT) -> Any:
    """The same network as diffusers builds it, with the same weights."""
    config = network.config.model_dump(exclude={"time_freq_shift"})
    model = DiTTransformer2DModel(**config).eval()
    model.load_state_dict(network.state_dict())
    dtype = next(network.parameters()).dtype
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.to(dtype)
    return model


def inputs(network: DiT, dtype: torch.dtype, size: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = size or network.config.sample_size // network.config.patch_size * network.config.patch_size
    z = torch.randn(3, network.config.in_channels, side, side, generator=generator, dtype=torch.float64)
    return z.to(dtype), torch.tensor([0, network.config.num_embeds_ada_norm, 3])


def relative_difference(network: DiT, z: Tensor, label: Tensor, level: NoiseLevel) -> float:
    with torch.no_grad():
        ours = network(z, level, {"class_label": label})
        time = network.trained.network_time(level).to(z.dtype).expand(len(z))
        theirs = reference(network)(z, time, label).sample
    got = ours.prediction if ours.variance is None else torch.cat([ours.prediction, ours.variance], dim=1)
    assert theirs.std() > 0.05
    return float((got - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_state_dict_keys_and_shapes_are_those_of_diffusers(
    build: Callable[..., DiT], config: dict[str, Any]
) -> None:
    network = build(**config)
    ours = {key: value.shape for key, value in network.state_dict().items()}
    assert ours == {key: value.shape for key, value in reference(network).state_dict().items()}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_float64_output_is_that_of_diffusers_to_1e_10(
    build: Callable[..., DiT],
    level: Callable[..., NoiseLevel],
    config: dict[str, Any],
    exact_time_features: None,
) -> None:
    network = build(**config).double()
    assert relative_difference(network, *inputs(network, torch.float64), level(3.25, 640.0, 999.0)) < 1e-10


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_float32_output_is_that_of_diffusers_to_2e_5(
    build: Callable[..., DiT], level: Callable[..., NoiseLevel], config: dict[str, Any]
) -> None:
    network = build(**config)
    assert relative_difference(network, *inputs(network, torch.float32), level(3.25, 640.0, 999.0)) < 2e-5


def test_untouched_diffusers_agrees_in_float64_where_its_float32_time_features_are_exact(
    build: Callable[..., DiT], level: Callable[..., NoiseLevel]
) -> None:
    network = build().double()
    assert relative_difference(network, *inputs(network, torch.float64), level(0.0)) < 1e-10


@pytest.mark.parametrize("size", [4, 12, 14])
def test_a_latent_of_another_size_stretches_the_positions_as_diffusers_does(
    build: Callable[..., DiT], level: Callable[..., NoiseLevel], size: int
) -> None:
    network = build()
    assert relative_difference(network, *inputs(network, torch.float32, size), level(500.0)) < 2e-5


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 6), (7, 3)])
def test_positions_of_oblong_grids_are_those_of_diffusers(rows: int, columns: int) -> None:
    patches = embeddings.PatchEmbed(height=8, width=8, patch_size=2, in_channels=1, embed_dim=16)
    for parameter in patches.parameters():
        torch.nn.init.zeros_(parameter)
    expected = patches(torch.zeros(1, 1, 2 * rows, 2 * columns))
    torch.testing.assert_close(position_embedding(16, rows, columns, base=4), expected, rtol=0, atol=1e-6)


def test_our_config_defaults_are_those_of_diffusers() -> None:
    parameters = inspect.signature(DiTTransformer2DModel.__init__).parameters
    theirs = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert DiTConfig().model_dump(exclude={"time_freq_shift"}) == theirs


def test_a_folder_written_by_diffusers_loads_here(
    build: Callable[..., DiT], level: Callable[..., NoiseLevel], tmp_path: Path
) -> None:
    network = build()
    reference(network).save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    config = DiTConfig.model_validate({key: value for key, value in document.items() if key[0] != "_"})
    loaded = DiT(config, network.trained).eval()
    loaded.load_state_dict(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
    z, _ = inputs(network, torch.float32)
    condition = {"class_label": torch.tensor([0, 4, 9])}
    before, after = (model(z, level(500.0), condition).prediction for model in (network, loaded))
    assert torch.equal(before, after)


def test_a_folder_written_here_loads_in_diffusers(build: Callable[..., DiT], tmp_path: Path) -> None:
    network = build()
    document = network.config.model_dump(mode="json", by_alias=True) | {
        "_class_name": "DiTTransformer2DModel"
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    save_file(network.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    loaded, report = DiTTransformer2DModel.from_pretrained(
        tmp_path, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values())
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
