"""The published sizes: names and shapes alone, in files of the right length that take no room on the disk."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_registry.original import conversion, convert
from ldm_registry.vocabulary import Prediction

Disk = namedtuple("Disk", ["free"])  # stands in for the one of shutil


def sparse_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        end = position + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, tuple[int, ...]]]:
    """What would have been written: shapes by name, by folder."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}

    def record(source: Path, header: Any, pieces: Any, path: Path) -> None:
        found[path.parent.name] = {piece.target: piece.shape for piece in pieces}
        assert len(found[path.parent.name]) == len(pieces)

    monkeypatch.setattr(conversion, "write_pieces", record)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: Disk(2**60))
    return found


def shapes_of(model: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


PUBLISHED = {
    "sd1": {
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "sample_size": 64,
        "use_linear_projection": False,
        "layers_per_block": 2,
        "transformer_layers_per_block": 1,
    },
    "sd2": {
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "sample_size": 96,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "sample_size": 128,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
TEXT = {
    "sd1": {"text_encoder": (768, 12, 12, 3072, "quick_gelu", 768)},
    "sd2": {"text_encoder": (1024, 23, 16, 4096, "gelu", 512)},
    "sdxl": {
        "text_encoder": (768, 12, 12, 3072, "quick_gelu", 768),
        "text_encoder_2": (1280, 32, 20, 5120, "gelu", 1280),
    },
}


@pytest.mark.parametrize("family", ["sd1", "sd2", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_every_name_and_shape_of_the_published_networks_is_that_of_the_real_classes(
    family: str, original: Any, tmp_path: Path, written: dict[str, dict[str, tuple[int, ...]]]
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        path = sparse_file(tmp_path / "model.safetensors", original.files[family](False))
    prediction = Prediction.V if family == "sd2" else None
    converted = convert(path, tmp_path / "out", prediction=prediction)
    configs = {part.name: json.loads((part / "config.json").read_text()) for part in converted.components}
    assert PUBLISHED[family].items() <= configs["unet"].items()
    with torch.device("meta"):
        assert written["unet"] == shapes_of(UNet2DConditionModel.from_config(configs["unet"]))
        assert written["vae"] == shapes_of(AutoencoderKL.from_config(configs["vae"]))
        for part, published in TEXT[family].items():
            config = configs[part]
            keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
            assert tuple(config[key] for key in (*keys, "hidden_act", "projection_dim")) == published
            assert config["torch_dtype"] == "float16"
            parsed = CLIPTextConfig(**{key: value for key, value in config.items() if key != "torch_dtype"})
            if part == "text_encoder_2":
                assert written[part] == shapes_of(CLIPTextModelWithProjection(parsed))
            else:
                # Newer versions of transformers leave the outermost module out; folders that are published have it.
                plain = {name.removeprefix("text_model."): shape for name, shape in written[part].items()}
                model = shapes_of(CLIPTextModel(parsed))
                assert plain == {name.removeprefix("text_model."): shape for name, shape in model.items()}
    assert written.keys() == configs.keys()
    assert configs["vae"]["scaling_factor"] == {"sdxl": 0.13025}.get(family, 0.18215)
