"""Real configs and whole folders, against diffusers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_unet import UNetCondition, UNetConditionConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel, Trained

UNet2DConditionModel = pytest.importorskip("diffusers").UNet2DConditionModel

Level = Callable[..., NoiseLevel]

# What the published files say, without their notes.
OLDER = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD_1_5 = OLDER | {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64}
SD_2_1 = OLDER | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SDXL = OLDER | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
REFINER = SDXL | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
SMALL: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("document", "count"),
    [
        pytest.param(SD_1_5, 859_520_964, id="Stable Diffusion 1.5"),
        pytest.param(SD_2_1, 865_910_724, id="Stable Diffusion 2.1"),
        pytest.param(SDXL, 2_567_463_684, id="SDXL"),
        pytest.param(REFINER, None, id="SDXL refiner", marks=pytest.mark.slow),
    ],
)
def test_published_configs_have_the_tensors_of_diffusers(
    trained: Trained, document: dict[str, Any], count: int | None
) -> None:
    with torch.device("meta"):
        ours = UNetCondition(UNetConditionConfig.model_validate(document), trained)
        theirs = UNet2DConditionModel(**document)
    assert shapes(ours) == shapes(theirs)
    assert count in (None, sum(tensor.numel() for tensor in ours.state_dict().values()))


def test_sdxl_takes_two_texts_joined_and_the_second_ones_pooled_form() -> None:
    config = UNetConditionConfig.model_validate(SDXL)
    assert config.projection_class_embeddings_input_dim == 1280 + 6 * 256
    assert config.cross_attention_dim == 768 + 1280


def small(trained: Trained) -> UNetCondition:
    network = UNetCondition(UNetConditionConfig.model_validate(SMALL), trained).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def write(folder: Path, network: UNetCondition, tensors: dict[str, Tensor]) -> None:
    document = network.config.model_dump(mode="json", by_alias=True)
    (folder / "config.json").write_text(json.dumps(document | {"_class_name": "UNet2DConditionModel"}))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def test_a_folder_written_by_diffusers_loads_here(trained: Trained, level: Level, tmp_path: Path) -> None:
    network = small(trained)
    model = UNet2DConditionModel(**SMALL)
    model.load_state_dict(network.state_dict())
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    config = UNetConditionConfig.model_validate({key: document[key] for key in document if key[0] != "_"})
    loaded = UNetCondition(config, trained).eval()
    loaded.load_state_dict(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
    z, text = torch.randn(2, 4, 8, 8), {"text_embedding": torch.randn(2, 5, 6)}
    before, after = (one(z, level(500.0), text).prediction for one in (network, loaded))
    assert torch.equal(before, after)


def test_a_folder_written_here_loads_in_diffusers(trained: Trained, tmp_path: Path) -> None:
    network = small(trained)
    write(tmp_path, network, network.state_dict())
    loaded, report = UNet2DConditionModel.from_pretrained(
        tmp_path, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values())
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def today(name: str) -> str:
    for pattern, replacement in UNetCondition.renamed_tensors:
        name = re.sub(pattern, replacement, name)
    return name


def test_old_names_of_attention_to_positions_mean_what_diffusers_takes_them_for(
    trained: Trained, tmp_path: Path
) -> None:
    network = small(trained)
    state = network.state_dict()
    old = {}
    for name, tensor in state.items():
        for new, word in OLD_NAMES.items():
            # Transformers have `attn1` and `attn2`, and never had other names.
            if "attentions" in name and "attn" not in name:
                name = name.replace(f".{new}.", f".{word}.")
        old[name] = tensor
    assert {word for word in OLD_NAMES.values() if any(f".{word}." in name for name in old)} == {
        *OLD_NAMES.values()
    }
    write(tmp_path, network, old)
    theirs = UNet2DConditionModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).state_dict()
    ours = {today(name): tensor for name, tensor in old.items()}
    assert ours.keys() == theirs.keys() == state.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(today(name) == name for name in state)
