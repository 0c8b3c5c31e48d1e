from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.original import convert
from ldm_registry.vocabulary import Prediction

PREDICTIONS = {"sd1": None, "sd2": Prediction.V, "sdxl": None}


def config_of(folder: Path) -> dict[str, Any]:
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    return json.loads((folder / name).read_text())


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tensors(family: str, original: Any) -> dict[str, Tensor]:
    return original.randomised(original.files[family]())


@pytest.fixture
def folder(tmp_path: Path, family: str, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "out", prediction=PREDICTIONS[family])
    return tmp_path / "out"


def test_every_tensor_of_the_unet_is_the_one_that_diffusers_converter_finds(
    folder: Path, tensors: dict[str, Tensor]
) -> None:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = config_of(folder / "unet")
    found = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    same(found, convert_ldm_unet_checkpoint(dict(tensors), config))
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(config)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in found.items()
    }


def test_every_tensor_of_the_autoencoder_is_the_one_that_diffusers_converter_finds(
    folder: Path, tensors: dict[str, Tensor]
) -> None:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = config_of(folder / "vae")
    found = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    same(found, convert_ldm_vae_checkpoint(dict(tensors), config))
    AutoencoderKL.from_config(config).load_state_dict(found, strict=True)


def text_reference(family: str, folder: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    class Encoder:
        class config:  # noqa: N801  # the converter asks an instance for this
            hidden_size = 64

    if family == "sd2":
        # The converter leaves out block 23, the last of the real encoder; here it is block 2.
        rest = {name: tensor for name, tensor in tensors.items() if ".resblocks.2." not in name}
        rest.pop("cond_stage_model.model.text_projection")
        return convert_open_clip_checkpoint(Encoder(), rest, prefix="cond_stage_model.model.")
    if folder == "text_encoder_2":
        return convert_open_clip_checkpoint(Encoder(), tensors, prefix="conditioner.embedders.1.model.")
    found = convert_ldm_clip_checkpoint(tensors)
    return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}


def test_every_tensor_of_a_text_encoder_is_the_one_that_diffusers_converter_finds(
    family: str, folder: Path, tensors: dict[str, Tensor]
) -> None:
    for part in ("text_encoder", "text_encoder_2"):
        if (folder / part).is_dir():
            found = load_file(folder / part / "model.safetensors")
            same(found, text_reference(family, part, tensors))


def test_transformers_loads_the_text_encoders_without_a_complaint(family: str, folder: Path) -> None:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if not (folder / part).is_dir():
            continue
        model, report = kind.from_pretrained(folder / part, output_loading_info=True)
        assert not any(report.values())
        stored = load_file(folder / part / "model.safetensors")
        plain = {name.removeprefix("text_model."): tensor for name, tensor in stored.items()}
        state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
        same(state, plain)
        assert model.config.eos_token_id == 2
        assert model.config.hidden_act == (
            "gelu" if family == "sd2" or part == "text_encoder_2" else "quick_gelu"
        )
