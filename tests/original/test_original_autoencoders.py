from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.original import convert
from ldm_registry.vocabulary import Prediction


@pytest.fixture
def state(original: Any) -> dict[str, Tensor]:
    return original.randomised(original.Autoencoder((32, 64), 1).state_dict())


def converted_vae(tensors: dict[str, Tensor], tmp_path: Path, **wishes: Any) -> Path:
    save_file(tensors, tmp_path / "vae.safetensors")
    (folder,) = convert(tmp_path / "vae.safetensors", tmp_path / "out", **wishes).components
    assert folder == tmp_path / "out" / "vae"
    return folder


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_an_autoencoder_alone_is_found_with_and_without_its_prefix(
    prefix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    extra = {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
    folder = converted_vae(
        {prefix + name: tensor for name, tensor in state.items()} | (extra if not prefix else {}),
        tmp_path,
        family="sdxl",
    )
    config = json.loads((folder / "config.json").read_text())
    found = load_file(folder / "diffusion_pytorch_model.safetensors")
    expected = convert_ldm_vae_checkpoint(state, config)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert AutoencoderKL.from_pretrained(folder).config.scaling_factor == 0.13025


@pytest.mark.parametrize(
    ("latent", "family", "scaling"),
    [
        (4, "sd1", (0.18215, None)),
        (4, "sd2", (0.18215, None)),
        (4, "sdxl", (0.13025, None)),
        (16, "sd3", (1.5305, 0.0609)),
        (16, "flux", (0.3611, 0.1159)),
    ],
)
def test_the_family_decides_how_latents_are_scaled(
    latent: int, family: str, scaling: tuple[float, float | None], original: Any, tmp_path: Path
) -> None:
    vae = original.Autoencoder((32, 64), 1, latent=latent, quant=latent == 4)
    folder = converted_vae(dict(vae.state_dict()), tmp_path, family=family)
    config = json.loads((folder / "config.json").read_text())
    assert (config["scaling_factor"], config.get("shift_factor")) == scaling
    assert config["use_quant_conv"] is (latent == 4)
    assert config["use_post_quant_conv"] is (latent == 4)


@pytest.mark.parametrize(
    ("latent", "family", "choices"),
    [
        (4, None, "sd1, sd2, sdxl"),
        (16, None, "sd3, flux"),
        (4, "flux", "sd1, sd2, sdxl"),
        (16, "sd1", "sd3, flux"),
    ],
)
def test_an_autoencoder_without_a_fitting_family_lists_those_that_fit(
    latent: int, family: str | None, choices: str, original: Any, tmp_path: Path
) -> None:
    vae = original.Autoencoder((32, 64), 1, latent=latent)
    with pytest.raises(SpecError, match=f"say which of {choices} it belongs to"):
        converted_vae(dict(vae.state_dict()), tmp_path, family=family)


def test_words_for_a_denoiser_are_refused_for_an_autoencoder(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="words for a denoiser"):
        converted_vae(state, tmp_path, family="sd1", prediction=Prediction.V)


def test_a_published_16_channel_autoencoder_has_the_names_of_the_real_class(
    original: Any, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL

    vae = original.Autoencoder((32, 64, 64), 2, latent=16, quant=False, attends=(False, False, True))
    folder = converted_vae(original.randomised(vae.state_dict()), tmp_path, family="flux")
    config = json.loads((folder / "config.json").read_text())
    found = load_file(folder / "diffusion_pytorch_model.safetensors")
    AutoencoderKL.from_config(config).load_state_dict(found, strict=True)
    attention = "encoder.down.2.attn.1.q.weight"
    name = "encoder.down_blocks.2.attentions.1.to_q.weight"
    stored = load_file(tmp_path / "vae.safetensors")
    assert torch.equal(found[name], stored[attention][:, :, 0, 0])
    assert torch.equal(
        found["decoder.up_blocks.0.attentions.2.to_out.0.weight"],
        stored["decoder.up.2.attn.2.proj_out.weight"][:, :, 0, 0],
    )


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_attention_may_be_stored_as_a_linear_layer_or_as_a_convolution(
    dimensions: int, state: dict[str, Tensor], tmp_path: Path
) -> None:
    old = {
        name: tensor.reshape(tensor.shape[:2] + (1,) * (dimensions - 2))
        if ".attn_1." in name and tensor.dim() == 4
        else tensor
        for name, tensor in state.items()
    }
    folder = converted_vae(old, tmp_path, family="sd1")
    found = load_file(folder / "diffusion_pytorch_model.safetensors")
    for theirs, ours in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        stored = state[f"decoder.mid.attn_1.{theirs}.weight"].squeeze()
        assert torch.equal(found[f"decoder.mid_block.attentions.0.{ours}.weight"], stored)
