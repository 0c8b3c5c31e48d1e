from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.errors import CheckpointError, SpecError
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


@pytest.fixture(params=["sd1", "sd2", "sdxl"], scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tensors(family: str, original: Any) -> dict[str, Tensor]:
    return original.randomised(original.files[family]())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: str, tensors: dict[str, Tensor]) -> Path:
    tmp_path = tmp_path_factory.mktemp(family)
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


def test_the_folder_is_an_ordinary_pipeline_without_tokenizers(family: str, folder: Path) -> None:
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    parts = {name: value for name, value in index.items() if isinstance(value, list) and value[0]}
    for name, (library, kind) in parts.items():
        assert hasattr(diffusers if library == "diffusers" else transformers, kind)
        assert (folder / name).is_dir() is not name.startswith("tokenizer")
    assert index["_class_name"].startswith("StableDiffusion")
    assert ("tokenizer_2" in parts) is (family == "sdxl")


def test_the_scheduler_is_the_one_that_the_family_was_published_with(family: str, folder: Path) -> None:
    import diffusers

    config = config_of(folder / "scheduler")
    kinds = {"sd1": "PNDMScheduler", "sd2": "DDIMScheduler", "sdxl": "EulerDiscreteScheduler"}
    assert config["_class_name"] == kinds[family]
    kind = getattr(diffusers, config["_class_name"])
    scheduler, unused = kind.from_config(config, return_unused_kwargs=True)
    assert unused.keys() == {"_class_name"}
    assert scheduler.config.beta_schedule == "scaled_linear"
    assert scheduler.config.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")


def test_what_the_file_lacks_is_said(
    family: str, original: Any, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("first_stage_model.")}
    save_file(kept, tmp_path / "model.safetensors")
    converted = convert(tmp_path / "model.safetensors", tmp_path / "out", prediction=PREDICTIONS[family])
    tokenizers = ("tokenizer", "tokenizer_2") if family == "sdxl" else ("tokenizer",)
    assert converted.missing == ("vae", *tokenizers)
    assert any("holds no vae" in note for note in converted.notes)
    assert any("no tokenizer" in note for note in converted.notes)


def file_of(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_stable_diffusion_2_asks_what_it_predicts(original: Any, tmp_path: Path) -> None:
    path = file_of(original.files["sd2"](), tmp_path)
    with pytest.raises(SpecError, match="state the prediction"):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for prediction, size in ((Prediction.EPSILON, 64), (Prediction.V, 96)):
        convert(path, tmp_path / prediction, prediction=prediction)
        assert config_of(tmp_path / prediction / "unet")["sample_size"] == size


def test_a_marker_in_the_file_says_v_prediction_and_no_signal_at_the_end(
    original: Any, tmp_path: Path
) -> None:
    tensors = original.files["sdxl"]() | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = file_of(tensors, tmp_path)
    convert(path, tmp_path / "out")
    config = config_of(tmp_path / "out" / "scheduler")
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    with pytest.raises(SpecError, match="contradictory"):
        convert(path, tmp_path / "other", prediction=Prediction.EPSILON)


def test_missing_unknown_and_misshapen_tensors_are_listed_together(original: Any, tmp_path: Path) -> None:
    tensors = original.files["sd1"]()
    unet = "model.diffusion_model"
    del tensors[f"{unet}.output_blocks.1.0.in_layers.0.bias"]
    tensors[f"{unet}.out.3.weight"] = torch.zeros(2)
    tensors[f"{unet}.time_embed.2.weight"] = torch.zeros(3, 3)
    tensors["first_stage_model.quant_conv.bias"] = torch.zeros(8, dtype=torch.int32)
    path = file_of(tensors, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "out")
    assert caught.value.problems == (
        f"missing: {unet}.output_blocks.1.0.in_layers.0.bias [256]",
        f"unknown: {unet}.out.3.weight [2]",
        f"wrong shape: {unet}.time_embed.2.weight is [3, 3], expected [256, 256]",
        "wrong type: first_stage_model.quant_conv.bias is I32, expected F64, F32, F16, BF16",
    )
    assert not (tmp_path / "out").exists()


def test_further_tensors_are_left_out_when_they_are_named(original: Any, tmp_path: Path) -> None:
    path = file_of(original.files["sd1"]() | {"embedding_manager.x": torch.zeros(1)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"unknown: embedding_manager\.x"):
        convert(path, tmp_path / "out")
    convert(path, tmp_path / "out", ignore=["embedding_manager.*"])


def test_averaged_weights_are_left_out_or_taken_instead(original: Any, tmp_path: Path) -> None:
    plain = original.randomised(original.files["sd1"]())
    unet = {name: tensor for name, tensor in plain.items() if name.startswith("model.diffusion_model.")}
    average = original.randomised(unet, seed=1)
    flat = {"model_ema." + name[len("model.") :].replace(".", ""): tensor for name, tensor in average.items()}
    path = file_of(plain | flat, tmp_path)
    converted = convert(path, tmp_path / "plain")
    assert any(note.startswith(f"{len(flat)} averaged tensors") for note in converted.notes)
    convert(path, tmp_path / "average", ema=True)
    save_file({**plain, **average}, tmp_path / "other.safetensors")
    convert(tmp_path / "other.safetensors", tmp_path / "expected")
    name = "unet/diffusion_pytorch_model.safetensors"
    same(load_file(tmp_path / "average" / name), load_file(tmp_path / "expected" / name))
    same(
        load_file(tmp_path / "plain" / "vae" / Path(name).name),
        load_file(tmp_path / "average" / "vae" / Path(name).name),
    )


def test_a_text_encoder_without_its_outermost_name_is_the_same_encoder(original: Any, tmp_path: Path) -> None:
    tensors = original.randomised(original.files["sd1"]())
    convert(file_of(tensors, tmp_path), tmp_path / "a")
    short = {
        name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in tensors.items()
    }
    convert(file_of(short, tmp_path), tmp_path / "b")
    name = "text_encoder/model.safetensors"
    same(load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
        ("down_blocks.0.resnets.0.conv1.weight", "names of diffusers"),
        ("lora_unet_down_blocks_0.lora_up.weight", "LoRA"),
        ("something.else", "no layout that is known"),
    ],
)
def test_other_files_are_refused_by_name(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=what):
        convert(file_of({name: torch.zeros(1)}, tmp_path), tmp_path / "out")


@pytest.mark.parametrize("channels", [5, 9])
def test_a_unet_with_further_inputs_is_refused(channels: int, original: Any, tmp_path: Path) -> None:
    unet = original.UNetModel(64, (1, 2), 1, (1, 0), 768, False, in_channels=channels)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"it takes {channels} channels"):
        convert(file_of(tensors, tmp_path), tmp_path / "out")


def test_a_unet_alone_is_known_by_what_it_attends_to(original: Any, tmp_path: Path) -> None:
    unet = original.UNetModel(64, (1, 2), 1, (1, 0), 768, False)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    converted = convert(file_of(tensors, tmp_path), tmp_path / "out")
    assert converted.family == "sd1"
    assert converted.missing == ("vae", "text_encoder", "tokenizer")


def test_a_measured_scale_in_the_file_is_taken(original: Any, tmp_path: Path) -> None:
    path = file_of(original.files["sd1"]() | {"scale_factor": torch.tensor(0.25)}, tmp_path)
    convert(path, tmp_path / "out")
    assert config_of(tmp_path / "out" / "vae")["scaling_factor"] == 0.25


def test_a_folder_that_holds_something_is_left_alone(original: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(SpecError, match="exists already"):
        convert(file_of(original.files["sd1"](), tmp_path), tmp_path / "out")
