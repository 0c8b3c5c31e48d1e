from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.original import convert, read_ldm_yaml
from ldm_registry.vocabulary import Prediction

FIRST_STAGE = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    },
}


def unet_params(**changes: Any) -> dict[str, Any]:
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 64,
        "attention_resolutions": [1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2],
        "num_heads": 4,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": 64,
        "use_checkpoint": True,
        "legacy": False,
    } | changes


def document(unet: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    params = {
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": 4,
        "conditioning_key": "crossattn",
        "scale_factor": 0.18215,
        "use_ema": False,
        "scheduler_config": {"target": "ldm.lr_scheduler.LambdaLinearScheduler", "params": {"f_max": [1.0]}},
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": unet or unet_params(),
        },
        "first_stage_config": deepcopy(FIRST_STAGE),
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    } | changes
    kept = {key: value for key, value in params.items() if value is not ...}
    return {
        "model": {
            "base_learning_rate": 1.0e-04,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": kept,
        }
    }


def written(tmp_path: Path, values: dict[str, Any]) -> Path:
    path = tmp_path / "inference.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.parametrize(
    "unet",
    [
        unet_params(),
        unet_params(channel_mult=[1, 2, 4, 4], attention_resolutions=[4, 2, 1], num_heads=8, context_dim=768),
        unet_params(
            channel_mult=[1, 2, 4, 4],
            attention_resolutions=[4, 2, 1],
            num_heads=-1,
            num_head_channels=64,
            use_linear_in_transformer=True,
            context_dim=1024,
        ),
    ],
    ids=["small", "sd1", "sd2"],
)
def test_the_unet_is_the_one_that_diffusers_makes_of_the_same_yaml(
    unet: dict[str, Any], tmp_path: Path
) -> None:
    from diffusers.loaders.single_file_utils import create_unet_diffusers_config_from_ldm

    values = document(unet)
    # diffusers takes the mere presence of the key for a number of heads.
    reference = {key: value for key, value in unet.items() if (key, value) != ("num_heads", -1)}
    expected = create_unet_diffusers_config_from_ldm(document(reference), {}, image_size=None)
    found = read_ldm_yaml(written(tmp_path, values)).unet
    assert found is not None
    for key, value in expected.items():
        if key != "sample_size" and value is not None:
            assert found[key] == value, key


def test_the_autoencoder_is_the_one_that_diffusers_makes_of_the_same_yaml(tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import create_vae_diffusers_config_from_ldm

    expected = create_vae_diffusers_config_from_ldm(document(), {})
    found = read_ldm_yaml(written(tmp_path, document())).autoencoder
    assert {key: found[key] for key in expected if key != "sample_size"} == {
        key: value for key, value in expected.items() if key != "sample_size"
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("linear", "scaled_linear"),
        ("sqrt_linear", "linear"),
        ("cosine", "squaredcos_cap_v2"),
        (..., "scaled_linear"),
    ],
)
def test_beta_schedules_get_the_names_of_diffusers(theirs: Any, ours: str, tmp_path: Path) -> None:
    import diffusers

    scheduler = read_ldm_yaml(written(tmp_path, document(beta_schedule=theirs))).scheduler
    assert scheduler is not None
    assert scheduler["beta_schedule"] == ours
    # The formulas of `make_beta_schedule` of the original code, in float64.
    start, end = 0.00085, 0.012
    steps = torch.arange(1001, dtype=torch.float64)
    alphas = torch.cos((steps / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    betas = {
        "scaled_linear": torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2,
        "linear": torch.linspace(start, end, 1000, dtype=torch.float64),
        "squaredcos_cap_v2": (1 - alphas[1:] / alphas[:-1]).clamp(0, 0.999),
    }[ours]
    assert torch.allclose(diffusers.DDIMScheduler.from_config(scheduler).betas.double(), betas, rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("eps", Prediction.EPSILON), ("v", Prediction.V), ("x0", Prediction.X0)]
)
def test_parameterizations_get_our_names(theirs: str, ours: Prediction, tmp_path: Path) -> None:
    assert read_ldm_yaml(written(tmp_path, document(parameterization=theirs))).prediction is ours


def test_an_unconditional_vq_model_maps_to_the_classes_of_its_published_pipeline(tmp_path: Path) -> None:
    unet = unet_params(
        model_channels=224,
        in_channels=3,
        out_channels=3,
        attention_resolutions=[8, 4, 2],
        channel_mult=[1, 2, 3, 4],
        num_head_channels=32,
    )
    for key in ("num_heads", "use_spatial_transformer", "transformer_depth", "context_dim"):
        del unet[key]
    details = FIRST_STAGE["params"]["ddconfig"] | {"double_z": False, "z_channels": 3, "ch": 128}
    stage = {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {"embed_dim": 3, "n_embed": 8192, "ddconfig": details},
    }
    found = read_ldm_yaml(
        written(
            tmp_path,
            document(
                unet,
                first_stage_config=stage,
                cond_stage_config="__is_unconditional__",
                conditioning_key=...,
                scale_factor=...,
            ),
        )
    )
    assert found.unet is not None
    assert found.unet["_class_name"] == "UNet2DModel"
    assert found.unet["block_out_channels"] == [224, 448, 672, 896]
    assert found.unet["down_block_types"] == ["DownBlock2D", *["AttnDownBlock2D"] * 3]
    assert (found.unet["attention_head_dim"], found.unet["flip_sin_to_cos"], found.unet["freq_shift"]) == (
        32,
        True,
        0,
    )
    assert (found.autoencoder["_class_name"], found.autoencoder["num_vq_embeddings"]) == ("VQModel", 8192)
    assert found.autoencoder["scaling_factor"] == 1
    assert found.conditioner is None


def test_the_yaml_of_an_autoencoder_alone_is_read(tmp_path: Path) -> None:
    found = read_ldm_yaml(written(tmp_path, {"model": FIRST_STAGE | {"base_learning_rate": 4.5e-6}}))
    assert found.autoencoder["block_out_channels"] == [32, 64]
    assert "scaling_factor" not in found.autoencoder
    assert found.unet is found.scheduler is found.prediction is None


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("model", "ldm.models.diffusion.ddpm.LatentDiffusion"),
        ("unet_config", "ldm.modules.diffusionmodules.openaimodel.UNetModel"),
        ("first_stage_config", "ldm.models.autoencoder.VQModelInterface"),
        ("cond_stage_config", "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"),
    ],
)
def test_an_unknown_target_is_refused_with_its_line_and_is_never_imported(
    path: str, known: str, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('was imported')")
    values = document()
    block = values["model"] if path == "model" else values["model"]["params"][path]
    block["target"] = "evil.Model"
    file = written(tmp_path, values)
    line = 1 + file.read_text().splitlines().index(
        next(row for row in file.read_text().splitlines() if row.strip() == "target: evil.Model")
    )
    with pytest.raises(SpecError) as caught:
        read_ldm_yaml(file)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}:{line}:")
    assert "'evil.Model' is not known" in problem
    assert known in problem


def test_everything_that_is_not_understood_is_listed_at_once(tmp_path: Path) -> None:
    unet = unet_params(use_scale_shift_norm=True, n_embed=5, surprise=1, num_res_blocks="two")
    with pytest.raises(SpecError) as caught:
        read_ldm_yaml(written(tmp_path, document(unet, beta_schedule="sqrt", v_posterior=0.5, linear_strt=1)))
    words = (
        "use_scale_shift_norm",
        "n_embed",
        "surprise",
        "num_res_blocks",
        "beta_schedule",
        "v_posterior",
        "linear_strt",
    )
    for word in words:
        assert any(f".{word}: " in problem for problem in caught.value.problems), word
    assert any("did you mean" in problem and "'linear_start'" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['false']",
        "model: &a {target: x}\nother: *a",
        "model: [" * 100,
        "[]",
        "model: 3",
        "model: {target: ldm.models.diffusion.ddpm.LatentDiffusion, params: 3}",
        "model: {target: 3, params: {}}",
    ],
)
def test_hostile_or_senseless_yaml_is_a_spec_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SpecError):
        read_ldm_yaml(tmp_path / "x.yaml")


@pytest.fixture(scope="module")
def tensors(original: Any) -> dict[str, Tensor]:
    return original.files["sd1"]()


def converted(tensors: dict[str, Tensor], tmp_path: Path, values: dict[str, Any], **wishes: Any) -> Path:
    save_file(tensors, tmp_path / "model.safetensors")
    stated = read_ldm_yaml(written(tmp_path, values))
    convert(tmp_path / "model.safetensors", tmp_path / "out", stated=stated, **wishes)
    return tmp_path / "out"


def test_beside_a_file_the_yaml_decides_what_shapes_do_not(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    import json

    folder = converted(
        tensors, tmp_path, document(parameterization="v", scale_factor=0.3, linear_end=0.02, timesteps=900)
    )
    unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert unet["attention_head_dim"] == 4
    assert vae["scaling_factor"] == 0.3
    assert (scheduler["prediction_type"], scheduler["beta_end"]) == ("v_prediction", 0.02)
    assert scheduler["num_train_timesteps"] == 900


def test_a_yaml_that_contradicts_the_file_is_refused_with_every_contradiction(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    values = document(unet_params(channel_mult=[1, 3], context_dim=32))
    with pytest.raises(SpecError, match="is not the YAML of this file") as caught:
        converted(tensors, tmp_path, values)
    keys = {problem.split(":")[0] for problem in caught.value.problems}
    assert keys == {"unet.block_out_channels", "unet.cross_attention_dim"}


def test_a_yaml_and_an_argument_that_contradict_one_another_are_refused(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="contradictory"):
        converted(tensors, tmp_path, document(parameterization="v"), prediction=Prediction.EPSILON)


def test_a_scale_that_was_measured_has_to_be_in_the_file(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="scale_by_std"):
        converted(tensors, tmp_path, document(scale_by_std=True))


def test_a_vq_model_alone_is_scaled_as_its_yaml_says(original: Any, tmp_path: Path) -> None:
    from diffusers import VQModel

    vae = original.Autoencoder((32, 64), 1, latent=3, codes=(16, 3))
    details = FIRST_STAGE["params"]["ddconfig"] | {"double_z": False, "z_channels": 3}
    stage = {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {"embed_dim": 3, "n_embed": 16, "ddconfig": details},
    }
    folder = converted(
        original.randomised(vae.state_dict()), tmp_path, document(first_stage_config=stage, scale_factor=1.0)
    )
    model, report = VQModel.from_pretrained(folder / "vae", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.scaling_factor == 1
