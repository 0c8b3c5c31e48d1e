"""A hundred UNets drawn at random against diffusers' `UNet2DModel` on the same weights.

diffusers expands time in float32 whatever its network computes in: for float64 numbers that function of its is
replaced by one in float64, for float32 numbers diffusers is left as it is.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ldm_unet import UNet, UNetConfig
from ldm_unet.stage_kind import DOWN_BLOCKS, UP_BLOCKS
from torch import Tensor, nn

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Trained

UNet2DModel = pytest.importorskip("diffusers").UNet2DModel
embeddings = pytest.importorskip("diffusers.models.embeddings")

COUNT = 120
QUICK = 12
BATCH = 2
TIMES = (3.0, 999.0)
PLAIN_DOWN = [word for word, kind in DOWN_BLOCKS.items() if not kind.carries_image]
PLAIN_UP = [word for word, kind in UP_BLOCKS.items() if not kind.carries_image]


@dataclass
class Case:
    """A config in diffusers' keys, and the sides of the latent in multiples of the coarsest cell."""

    config: dict[str, Any]
    sides: tuple[int, int]


def draw_case(seed: int) -> Case:
    draw = random.Random(f"unet {seed}")
    levels = draw.choice([2, 2, 3])
    images = draw.choice(["none", "none", "none", "all", "down", "up", "last"])
    groups = draw.choice([1, 2, 4])
    heads = draw.choice([None, 1, 3, 4, 8])
    if images == "none":
        widths = [groups * draw.randint(-(-8 // groups), 16 // groups) for _ in range(levels)]
        down, up = draw.choices(PLAIN_DOWN, k=levels), draw.choices(PLAIN_UP, k=levels)
    else:
        # Attention in these stages has 32 groups, whatever the config says.
        attention = draw.random() < 0.4
        widths = [32 if attention else draw.choice([8, 16]) for _ in range(levels)]
        words = ["AttnSkip{}Block2D", "Skip{}Block2D"] if attention else ["Skip{}Block2D"]
        down = [draw.choice(words).format("Down") for _ in range(levels)]
        up = [draw.choice(words).format("Up") for _ in range(levels)]
        if images in ("up", "last"):
            down[: levels - (images == "last")] = draw.choices(PLAIN_DOWN, k=levels - (images == "last"))
        if images in ("down", "last"):
            up[: levels - (images == "last")] = draw.choices(PLAIN_UP, k=levels - (images == "last"))
        if images == "all" and draw.random() < 0.5:
            groups = None
    channels = 3 if images in ("all", "down", "up") else draw.choice([1, 3, 4])
    variance = images in ("none", "last", "down") and draw.random() < 0.4
    time_shift = draw.choice(["default", "scale_shift"])
    config: dict[str, Any] = {
        "sample_size": draw.choice([None, 8, (8, 16)]),
        "in_channels": channels,
        "out_channels": 2 * channels if variance else channels,
        "center_input_sample": draw.random() < 0.3,
        "time_embedding_type": draw.choice(["positional", "positional", "fourier", "learned"]),
        "time_embedding_dim": draw.choice([None, 12]),
        "freq_shift": draw.choice([0, 1]),
        "flip_sin_to_cos": draw.random() < 0.5,
        "down_block_types": down,
        "mid_block_type": draw.choice(["UNetMidBlock2D", "UNetMidBlock2D", "UNetMidBlock2D", None]),
        "up_block_types": up,
        "block_out_channels": widths,
        "layers_per_block": draw.choice([1, 1, 2, 3]),
        "mid_block_scale_factor": draw.choice([1, math.sqrt(2)]),
        "downsample_padding": draw.choice([0, 1]),
        "downsample_type": draw.choice(["conv", "resnet"]),
        "upsample_type": draw.choice(["conv", "resnet"]),
        "dropout": draw.choice([0.0, 0.1]),
        "act_fn": draw.choice(["silu", "swish", "mish", "gelu", "relu"]),
        "attention_head_dim": heads,
        "norm_num_groups": groups,
        "attn_norm_num_groups": draw.choice([None, 1]),
        "norm_eps": draw.choice([1e-6, 1e-5, 1e-2]),
        "resnet_time_scale_shift": time_shift,
        "add_attention": draw.random() < 0.7,
        "class_embed_type": draw.choice([None, None, "timestep", "identity"]),
        "num_class_embeds": draw.choice([None, 5]),
        "num_train_timesteps": 1000,
    }
    return Case(config, draw.choice([(4, 4), (2, 3), (3, 1), (5, 5)]))


CASES = [draw_case(seed) for seed in range(COUNT)]


def features_in_float64(
    timesteps: Tensor,
    embedding_dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    scale: float = 1.0,
) -> Tensor:
    half = embedding_dim // 2
    exponent = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angle = scale * timesteps.double()[:, None] * torch.exp(-math.log(10_000) * exponent)
    halves = [angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()]
    return nn.functional.pad(torch.cat(halves, dim=1), (0, embedding_dim % 2))


def pair(case: Case, trained: Trained, dtype: torch.dtype) -> tuple[Any, UNet]:
    """diffusers' network with weights that are random everywhere, and ours with the same."""
    theirs = UNet2DModel(**case.config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            std = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    ours = UNet(UNetConfig.model_validate(UNet.adopt_config(case.config)), trained)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        tensor.data = tensor.data.to(dtype)
    return theirs.eval(), ours.eval().to(dtype)


def relative_error(case: Case, trained: Trained, dtype: torch.dtype) -> float:
    theirs, ours = pair(case, trained, dtype)
    generator = torch.Generator().manual_seed(1)
    unit = 2 ** (len(case.config["block_out_channels"]) - 1)
    shape = (BATCH, ours.config.in_channels, case.sides[0] * unit, case.sides[1] * unit)
    z = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    time = torch.tensor(TIMES, dtype=torch.float64)
    learned = ours.config.time_embedding_type == "learned"
    condition = {name: label(ours, name, dtype) for name in ours.conditioning}
    with torch.no_grad():
        output = ours(z, trained.schedule.level(time), condition)
        expected = theirs(z, time.to(torch.int64 if learned else dtype), *condition.values()).sample
    got = output.prediction
    if output.variance is not None:
        got = torch.cat([got, output.variance], dim=1)
    assert got.shape == expected.shape
    # Fourier networks are divided by their time, so each sample has a scale of its own.
    scale = expected.abs().amax(dim=(1, 2, 3))
    assert (scale * (time if ours.config.time_embedding_type == "fourier" else 1) > 0.02).all()
    return float(((got - expected).abs().amax(dim=(1, 2, 3)) / scale).max())


def label(network: UNet, name: str, dtype: torch.dtype) -> Tensor:
    given = network.conditioning[name]
    if name == "class_embedding":
        return torch.linspace(-1.0, 1.0, BATCH * network.config.time_width, dtype=dtype).reshape(BATCH, -1)
    if given.classes is not None or network.config.time_embedding_type == "learned":
        return torch.tensor([0, 4])
    return torch.tensor([1.5, 4.0], dtype=dtype)


MARKED = [
    pytest.param(case, id=str(seed), marks=[] if seed < QUICK else pytest.mark.slow)
    for seed, case in enumerate(CASES)
]


@pytest.mark.parametrize("case", MARKED)
def test_any_unet_gives_the_float64_numbers_of_diffusers(
    case: Case, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "get_timestep_embedding", features_in_float64)
    assert relative_error(case, trained, torch.float64) < 1e-10


@pytest.mark.parametrize("case", MARKED)
def test_any_unet_gives_the_float32_numbers_of_diffusers(case: Case, trained: Trained) -> None:
    assert relative_error(case, trained, torch.float32) < 2e-5


def drawn(key: str) -> set[Any]:
    return {case.config[key] for case in CASES}


def test_the_draws_differ_and_take_every_value() -> None:
    assert len({repr(case) for case in CASES}) >= 100
    assert {word for case in CASES for word in case.config["down_block_types"]} == set(DOWN_BLOCKS)
    assert {word for case in CASES for word in case.config["up_block_types"]} == set(UP_BLOCKS)
    assert {len(case.config["block_out_channels"]) for case in CASES} == {2, 3}
    assert drawn("norm_num_groups") == {None, 1, 2, 4}
    assert drawn("attention_head_dim") == {None, 1, 3, 4, 8}
    assert drawn("time_embedding_type") == {"positional", "fourier", "learned"}
    assert drawn("act_fn") == {"silu", "swish", "mish", "gelu", "relu"}
    assert drawn("mid_block_type") == {None, "UNetMidBlock2D"}
    assert drawn("layers_per_block") == {1, 2, 3}
    pairs = {(case.config["class_embed_type"], case.config["num_class_embeds"]) for case in CASES}
    assert pairs == {(kind, count) for kind in (None, "timestep", "identity") for count in (None, 5)}
    for key in ("center_input_sample", "flip_sin_to_cos", "add_attention"):
        assert drawn(key) == {False, True}
    for key in ("downsample_type", "upsample_type"):
        assert drawn(key) == {"conv", "resnet"}
    for key, values in {
        "downsample_padding": {0, 1},
        "freq_shift": {0, 1},
        "time_embedding_dim": {None, 12},
        "attn_norm_num_groups": {None, 1},
        "resnet_time_scale_shift": {"default", "scale_shift"},
        "mid_block_scale_factor": {1, math.sqrt(2)},
    }.items():
        assert drawn(key) == values
    assert {case.config["out_channels"] // case.config["in_channels"] for case in CASES} == {1, 2}
    assert any(case.config["block_out_channels"][0] % 2 for case in CASES), "an odd number of sinusoids"


def test_sides_that_are_no_multiples_fail_in_diffusers_and_are_refused_here(trained: Trained) -> None:
    case = next(case for case in CASES if case.config["class_embed_type"] is None)
    case = Case(case.config | {"num_class_embeds": None, "time_embedding_type": "positional"}, case.sides)
    theirs, ours = pair(case, trained, torch.float32)
    z = torch.zeros(1, ours.config.in_channels, 8, 9)
    with pytest.raises(RuntimeError, match="must match"):
        theirs(z, 3)
    with pytest.raises(ContractError, match="sides that are multiples of"):
        ours(z, trained.schedule.level(torch.tensor(3.0)), {})


def renamed(name: str) -> str:
    """As a loader does it: every pair in turn."""
    for pattern, replacement in UNet.renamed_tensors:
        name = re.sub(pattern, replacement, name)
    return name


def test_tensors_of_the_first_versions_have_their_present_names(trained: Trained) -> None:
    config = {
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        "time_embedding_type": "fourier",
    }
    names = set(UNet(UNetConfig.model_validate(config), trained).state_dict())
    assert {renamed(name) for name in names} == names, "what is known stays as it is"
    older = {
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "proj_attn",
        "time_proj": "time_steps",
        "down_blocks": "downsample_blocks",
        "mid_block": "mid",
        "up_blocks": "upsample_blocks",
    }
    before = set()
    for name in names:
        was = name
        for now, then in older.items():
            was = re.sub(rf"(^|\.){re.escape(now)}\.", rf"\g<1>{then}.", was)
        before.add(was)
    changed = before - names
    assert {part for part in older.values() if any(f"{part}." in name for name in changed)} == set(
        older.values()
    )
    assert {renamed(name) for name in before} == names
    assert renamed("mid.attentions.0.query.weight") == "mid_block.attentions.0.to_q.weight"


NCSNPP_CELEBAHQ_256 = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": [*["SkipDownBlock2D"] * 4, "AttnSkipDownBlock2D", *["SkipDownBlock2D"] * 2],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1.41421356237,
    "norm_eps": 1e-06,
    "norm_num_groups": None,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "fourier",
    "up_block_types": [*["SkipUpBlock2D"] * 2, "AttnSkipUpBlock2D", *["SkipUpBlock2D"] * 4],
}
DDPM_CELEBAHQ_256 = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}


@pytest.mark.parametrize("values", [NCSNPP_CELEBAHQ_256, DDPM_CELEBAHQ_256], ids=["ncsnpp", "ddpm"])
def test_published_models_have_the_tensors_of_diffusers(values: dict[str, Any], trained: Trained) -> None:
    with torch.device("meta"):
        theirs = UNet2DModel(**values)
        ours = UNet(UNetConfig.model_validate(UNet.adopt_config(values)), trained)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
