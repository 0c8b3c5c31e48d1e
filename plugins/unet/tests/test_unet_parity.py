"""The network against diffusers' `UNet2DModel`, in the same process and on the same weights."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_unet import UNet, UNetConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel

UNet2DModel = pytest.importorskip("diffusers").UNet2DModel
embeddings = pytest.importorskip("diffusers.models.embeddings")

CONFIGS: list[dict[str, Any]] = [
    {},
    {"num_class_embeds": 10},
    {"class_embed_type": "timestep"},
    {"class_embed_type": "identity"},
    {"time_embedding_type": "fourier", "num_class_embeds": 4},
    {"time_embedding_type": "learned", "num_train_timesteps": 1000},
    {"time_embedding_dim": 24, "freq_shift": 1, "flip_sin_to_cos": False},
    {"resnet_time_scale_shift": "scale_shift", "attention_head_dim": None},
    {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4, "mid_block_scale_factor": 1.5},
    {"downsample_type": "resnet", "upsample_type": "resnet"},
    {
        "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        "block_out_channels": (8, 16, 24),
        "layers_per_block": 2,
    },
    {
        "down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "UpBlock2D"),
    },
    {"downsample_padding": 0, "act_fn": "mish", "norm_eps": 1e-2},
    {"act_fn": "gelu", "add_attention": False},
    {"act_fn": "relu", "dropout": 0.3, "attention_head_dim": 12},
    {"mid_block_type": None, "in_channels": 4, "out_channels": 8},
    {"center_input_sample": True, "layers_per_block": 3, "sample_size": (8, 8)},
]
STEPS = (3.0, 640.0, 999.0)


def features_in_float64(
    timesteps: Tensor,
    embedding_dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    scale: float = 1.0,
) -> Tensor:
    """diffusers expands time in float32 whatever its network computes in; for a float64 truth it must not."""
    half = embedding_dim // 2
    exponent = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angle = scale * timesteps.double()[:, None] * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()], dim=1)


def reference(network: UNet) -> Any:
    """The same network as diffusers builds it, with the same weights."""
    model = UNet2DModel(**network.config.model_dump(exclude={"null_class"})).eval()
    model.load_state_dict(network.state_dict())
    dtype = next(network.parameters()).dtype
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def inputs(network: UNet, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, network.config.in_channels, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    if not network.conditioning:
        return z, {}
    ((name, kind),) = network.conditioning.items()
    if kind.classes is not None:
        return z, {name: torch.tensor([0, kind.classes - 1, 2])}
    shape = (3, *(size for size in kind.shape if size is not None))
    return z, {name: torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)}


def relative_difference(network: UNet, dtype: torch.dtype, level: NoiseLevel) -> float:
    network = network.to(dtype)
    z, condition = inputs(network, dtype)
    time = network.trained.network_time(level).expand(len(z))
    learned = network.config.time_embedding_type == "learned"
    with torch.no_grad():
        ours = network(z, level, condition)
        theirs = reference(network)(z, time.to(torch.int64 if learned else dtype), *condition.values()).sample
    got = ours.prediction if ours.variance is None else torch.cat([ours.prediction, ours.variance], dim=1)
    scale = theirs.abs().amax(dim=(1, 2, 3))
    # Fourier networks are divided by their time, so each sample has a scale of its own.
    assert (
        theirs.std(dim=(1, 2, 3)) * (time if network.config.time_embedding_type == "fourier" else 1) > 0.02
    ).all()
    return float(((got - theirs).abs().amax(dim=(1, 2, 3)) / scale).max())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_state_dict_keys_and_shapes_are_those_of_diffusers(
    build: Callable[..., UNet], config: dict[str, Any]
) -> None:
    network = build(**config)
    ours = {key: value.shape for key, value in network.state_dict().items()}
    assert ours == {key: value.shape for key, value in reference(network).state_dict().items()}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_float64_output_is_that_of_diffusers_to_1e_10(
    build: Callable[..., UNet],
    level: Callable[..., NoiseLevel],
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embeddings, "get_timestep_embedding", features_in_float64)
    assert relative_difference(build(**config), torch.float64, level(*STEPS)) < 1e-10


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_float32_output_is_that_of_diffusers_to_2e_5(
    build: Callable[..., UNet], level: Callable[..., NoiseLevel], config: dict[str, Any]
) -> None:
    assert relative_difference(build(**config), torch.float32, level(*STEPS)) < 2e-5


def test_untouched_diffusers_agrees_in_float64_where_its_float32_time_features_are_exact(
    build: Callable[..., UNet], level: Callable[..., NoiseLevel]
) -> None:
    assert relative_difference(build(), torch.float64, level(0.0)) < 1e-10


def test_our_config_defaults_are_those_of_diffusers() -> None:
    parameters = inspect.signature(UNet2DModel.__init__).parameters
    theirs = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert UNetConfig().model_dump(exclude={"null_class"}) == theirs


def test_a_folder_written_by_diffusers_loads_here(
    build: Callable[..., UNet], level: Callable[..., NoiseLevel], tmp_path: Path
) -> None:
    network = build(num_class_embeds=10, _null_class=9)
    reference(network).save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    config = UNetConfig.model_validate({key: value for key, value in document.items() if key[0] != "_"})
    loaded = UNet(config, network.trained).eval()
    loaded.load_state_dict(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
    z, _ = inputs(network, torch.float32)
    condition = {"class_label": torch.tensor([0, 4, 9])}
    before, after = (model(z, level(500.0), condition).prediction for model in (network, loaded))
    assert torch.equal(before, after)


def test_a_folder_written_here_loads_in_diffusers(build: Callable[..., UNet], tmp_path: Path) -> None:
    network = build(num_class_embeds=10, _null_class=9)
    document = network.config.model_dump(mode="json", by_alias=True) | {"_class_name": "UNet2DModel"}
    (tmp_path / "config.json").write_text(json.dumps(document))
    save_file(network.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    loaded, report = UNet2DModel.from_pretrained(tmp_path, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(report.values())
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
