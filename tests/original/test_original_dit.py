from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.original import convert
from ldm_registry.original.dit import position_table
from ldm_registry.vocabulary import Prediction

WIDTH, HEADS, LAYERS, CLASSES, PATCH, SIDE = 32, 2, 2, 5, 2, 8


def module(**parts: nn.Module) -> nn.Module:
    made = nn.Module()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


class DiT(nn.Module):
    """The original network, written from its paper: figure 3 and section 3.2 (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, layers: int, classes: int, side: int) -> None:
        super().__init__()
        self.heads, self.grid = heads, side // PATCH
        self.x_embedder = module(proj=nn.Conv2d(4, width, PATCH, PATCH))
        self.t_embedder = module(mlp=nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width)))
        self.y_embedder = module(embedding_table=nn.Embedding(classes + 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width), requires_grad=False)
        self.blocks = nn.ModuleList(
            module(
                attn=module(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
                mlp=module(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
                adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)),
            )
            for _ in range(layers)
        )
        self.final_layer = module(
            linear=nn.Linear(width, PATCH**2 * 8),
            adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
        )

    def forward(self, z: Tensor, time: Tensor, label: Tensor) -> Tensor:
        x = self.x_embedder.proj(z).flatten(2).transpose(1, 2) + self.pos_embed
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = time[:, None].float() * frequencies
        embedded = torch.cat([angles.cos(), angles.sin()], dim=-1)
        c = self.t_embedder.mlp(embedded) + self.y_embedder.embedding_table(label)
        for block in self.blocks:
            shift, scale, gate, shift_2, scale_2, gate_2 = block.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
            x = x + gate * self.attend(block.attn, normed(x) * (1 + scale) + shift)
            hidden = block.mlp.fc1(normed(x) * (1 + scale_2) + shift_2)
            x = x + gate_2 * block.mlp.fc2(nn.functional.gelu(hidden, approximate="tanh"))
        shift, scale = self.final_layer.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        out = self.final_layer.linear(normed(x) * (1 + scale) + shift)
        out = out.reshape(len(z), self.grid, self.grid, PATCH, PATCH, 8)
        return torch.einsum("nhwpqc->nchpwq", out).reshape(len(z), 8, *z.shape[2:])

    def attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = attention.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return attention.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def normed(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)


@pytest.fixture
def network(original: Any) -> DiT:
    dit = DiT(WIDTH, HEADS, LAYERS, CLASSES, SIDE)
    dit.load_state_dict(original.randomised(dict(dit.state_dict())))
    dit.pos_embed.data = position_table(WIDTH, SIDE // PATCH)[None].float()
    return dit


@pytest.fixture
def file(network: DiT, tmp_path: Path) -> Path:
    save_file(network.state_dict(), tmp_path / "dit.safetensors")
    return tmp_path / "dit.safetensors"


def test_the_converted_network_puts_out_the_numbers_of_the_original(
    network: DiT, file: Path, tmp_path: Path
) -> None:
    from diffusers import DiTTransformer2DModel
    from diffusers.models.embeddings import Timesteps

    converted = convert(file, tmp_path / "out", heads=HEADS)
    (folder,) = converted.components
    model = DiTTransformer2DModel.from_pretrained(folder).eval()
    # diffusers' network divides by one frequency less; the original's convention is `_time_freq_shift` 0.
    assert json.loads((folder / "config.json").read_text())["_time_freq_shift"] == 0
    for part in model.modules():
        if isinstance(part, Timesteps):
            part.downscale_freq_shift = 0
    z, time, label = torch.randn(3, 4, SIDE, SIDE), torch.tensor([0, 400, 999]), torch.tensor([0, 3, CLASSES])
    with torch.no_grad():
        expected, found = network(z, time, label), model(z, timestep=time, class_labels=label).sample
    assert float((found - expected).abs().max() / expected.abs().max()) < 2e-5


def test_every_name_and_shape_of_dit_xl_is_that_of_the_real_class(tmp_path: Path) -> None:
    from diffusers import DiTTransformer2DModel

    from ldm_registry.original.components import dit_part
    from ldm_registry.original.dit import plan_dit
    from ldm_registry.safetensors_header import TensorEntry

    with torch.device("meta"):
        state = DiT(1152, 16, 28, 1000, 32).state_dict()
    header = {name: TensorEntry(tmp_path, "F32", tuple(t.shape), 0) for name, t in state.items()}
    part = dit_part(plan_dit(header), None, None)
    assert (part.config["num_attention_heads"], part.config["attention_head_dim"]) == (16, 72)
    assert (part.config["sample_size"], part.config["num_embeds_ada_norm"]) == (32, 1000)
    with torch.device("meta"):
        model = DiTTransformer2DModel.from_config(dict(part.config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {piece.target: piece.shape for piece in part.pieces} == expected
    assert {piece.source for piece in part.pieces} == state.keys() - {"pos_embed"}


def test_the_embedders_of_time_and_class_are_repeated_in_every_block(
    network: DiT, file: Path, tmp_path: Path
) -> None:
    (folder,) = convert(file, tmp_path / "out", heads=HEADS).components
    found = load_file(folder / "diffusion_pytorch_model.safetensors")
    for index in range(LAYERS):
        table = found[f"transformer_blocks.{index}.norm1.emb.class_embedder.embedding_table.weight"]
        assert torch.equal(table, network.y_embedder.embedding_table.weight)


def test_the_computed_positions_are_those_of_diffusers() -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(WIDTH, 6, base_size=6, output_type="pt")
    assert float((position_table(WIDTH, 6) - expected).abs().max()) < 1e-6


def test_positions_that_were_learned_are_refused(network: DiT, tmp_path: Path) -> None:
    network.pos_embed.data[0, 3, 5] += 0.1
    save_file(network.state_dict(), tmp_path / "dit.safetensors")
    with pytest.raises(CheckpointError, match=r"pos_embed differs by up to 0\.1"):
        convert(tmp_path / "dit.safetensors", tmp_path / "out", heads=HEADS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dit.safetensors"]


def test_a_dit_that_does_not_say_its_heads_or_size_is_asked_about_both(network: DiT, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in network.state_dict().items() if name != "pos_embed"}
    save_file(state, tmp_path / "dit.safetensors")
    with pytest.raises(SpecError) as caught:
        convert(tmp_path / "dit.safetensors", tmp_path / "out")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["heads", "sample_size"]
    convert(tmp_path / "dit.safetensors", tmp_path / "out", heads=4, sample_size=SIDE)


def test_what_a_dit_lacks_is_listed_and_its_pipeline_is_that_of_diffusers(file: Path, tmp_path: Path) -> None:
    converted = convert(file, tmp_path / "out", heads=HEADS)
    assert converted.missing == ("vae",)
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline"
    scheduler = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["beta_schedule"], scheduler["beta_end"]) == ("linear", 0.02)


def test_a_dit_predicts_epsilon_and_nothing_else(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="DiT predicts epsilon"):
        convert(file, tmp_path / "out", heads=HEADS, prediction=Prediction.V)
