"""The network against diffusers' `UNet2DConditionModel`, on the same weights: over configs drawn at random."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import torch
from ldm_unet import UNetCondition, UNetConditionConfig
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel, Trained

UNet2DConditionModel = pytest.importorskip("diffusers").UNet2DConditionModel
embeddings = pytest.importorskip("diffusers.models.embeddings")

Level = Callable[..., NoiseLevel]
Draw = dict[str, Any]

COUNT = 120
FEW = 12
TOKENS = 7
OWN = {"null_class", "size_numbers"}

DOWN = (
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "SimpleCrossAttnDownBlock2D",
)
UP = ("CrossAttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")
MID = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn", None)
RESIZED = {"CrossAttnUpBlock2D", "UpBlock2D"}
"""What diffusers can enlarge to a size that is not double."""
ACTS = ("silu", "swish", "mish", "gelu", "relu")

EXPECTED: dict[str, set[Any]] = {
    "levels": {2, 3},
    "down": set(DOWN),
    "up": set(UP),
    "mid_block_type": set(MID),
    "in_channels": {1, 4},
    "variance": {False, True},
    "center_input_sample": {False, True},
    "flip_sin_to_cos": {False, True},
    "freq_shift": {0, 1},
    "only_cross_attention": {False, True, "tuple"},
    "layers_per_block": {1, 2, "tuple"},
    "downsample_padding": {0, 1},
    "mid_block_scale_factor": {1, 1.5},
    "act_fn": set(ACTS),
    "norm_num_groups": {1, 2, 4},
    "norm_eps": {1e-5, 1e-2},
    "cross_attention_dim": {"int", "tuple"},
    "transformer_layers_per_block": {1, 2, "tuple", "nested"},
    "reverse_transformer_layers_per_block": {False, True},
    "encoder_hid_dim_type": {None, "text_proj"},
    "attention_head_dim": {1, 2, 3, 4, "tuple"},
    "use_linear_projection": {False, True},
    "class_embed_type": {None, "table", "timestep", "identity", "projection", "simple_projection"},
    "class_embeddings_concat": {False, True},
    "addition_embed_type": {None, "text", "text_time"},
    "upcast_attention": {False, True, None},
    "resnet_time_scale_shift": {"default", "scale_shift"},
    "resnet_skip_time_act": {False, True},
    "resnet_out_scale_factor": {1.0, 1.25},
    "time_embedding_type": {"positional", "fourier"},
    "time_embedding_dim": {None, 20},
    "time_embedding_act_fn": {None, *ACTS},
    "timestep_post_act": {None, *ACTS},
    "time_cond_proj_dim": {None, 6},
    "conv_in_kernel": {1, 3, 5},
    "conv_out_kernel": {1, 3, 5},
    "mid_block_only_cross_attention": {None, False, True},
    "cross_attention_norm": {None, "layer_norm", "group_norm"},
    "odd size": {False, True},
    "mask": {False, True},
}


def drawn(index: int) -> Draw:
    """One valid config; and under `size` and `mask` what it is tried on."""
    rng = Random(index)
    pick = rng.choice
    levels = pick((2, 2, 3))
    down = tuple(pick(DOWN) for _ in range(levels))
    up = tuple(pick(UP) for _ in range(levels))
    mid = pick(MID)
    joint = any("Simple" in str(word) for word in (*down, *up, mid))
    norm = pick((None, "layer_norm", "group_norm")) if joint else None
    text = {"group_norm": 32, "layer_norm": 8}.get(str(norm)) or pick((8, 10))
    heads = (1, 2, 4) if joint else (1, 2, 3, 4)
    config: Draw = {
        "in_channels": (channels := pick((1, 4))),
        "out_channels": channels * pick((1, 1, 2)),
        "center_input_sample": pick((False, True)),
        "flip_sin_to_cos": pick((False, True)),
        "freq_shift": pick((0, 1)),
        "down_block_types": down,
        "mid_block_type": mid,
        "up_block_types": up,
        "only_cross_attention": pick((False, True, tuple(pick((False, True)) for _ in range(levels)))),
        "block_out_channels": (8,) * levels
        if norm == "layer_norm"
        else tuple(pick((8, 12, 16)) for _ in range(levels)),
        "layers_per_block": pick((1, 2, tuple(rng.randint(1, 2) for _ in range(levels)))),
        "downsample_padding": pick((0, 1)),
        "mid_block_scale_factor": pick((1, 1.5)),
        "dropout": pick((0.0, 0.3)),
        "act_fn": pick(ACTS),
        "norm_num_groups": pick((1, 2, 4)),
        "norm_eps": pick((1e-5, 1e-2)),
        "cross_attention_norm": norm,
        "attention_head_dim": pick((*heads, tuple(pick(heads) for _ in range(levels)))),
        "use_linear_projection": pick((False, True)),
        "upcast_attention": pick((False, True, None)),
        "resnet_time_scale_shift": pick(("default", "scale_shift")),
        "resnet_skip_time_act": pick((False, True)),
        "resnet_out_scale_factor": pick((1.0, 1.25)),
        "time_embedding_type": pick(("positional", "fourier")),
        "time_embedding_dim": pick((None, 20)),
        "time_embedding_act_fn": pick((None, *ACTS)),
        "timestep_post_act": pick((None, *ACTS)),
        "time_cond_proj_dim": pick((None, None, 6)),
        "conv_in_kernel": pick((1, 3, 5)),
        "conv_out_kernel": pick((1, 3, 5)),
        "mid_block_only_cross_attention": pick((None, False, True)),
    }
    config |= _depths(config, levels, rng) | _classes(rng) | _text(text, levels, rng)
    odd = all(word in RESIZED for word in up[:-1]) and pick((False, True, True))
    config["size"] = (pick((9, 11, 13)), pick((8, 10, 15))) if odd else (8, 12)
    # diffusers pads the mask of joint attention that reads text alone to a length that does not fit.
    config["mask"] = not joint and pick((False, True))
    if joint and config["only_cross_attention"] is False and not config["mid_block_only_cross_attention"]:
        config["mask"] = pick((False, True))
    return config


def _depths(config: Draw, levels: int, rng: Random) -> Draw:
    layers = config["layers_per_block"]
    layers = layers if isinstance(layers, tuple) else (layers,) * levels
    nested = tuple(tuple(rng.randint(0, 2) for _ in range(count)) for count in layers)
    back = tuple(tuple(rng.randint(0, 2) for _ in range(count + 1)) for count in reversed(layers))
    flat = tuple(rng.randint(0, 2) for _ in range(levels))
    # diffusers checks lists, which is what a file gives, and not tuples.
    down, up = rng.choice(((1, None), (2, None), (flat, None), (flat, flat[::-1]), (1, back), (nested, back)))
    return {"transformer_layers_per_block": down, "reverse_transformer_layers_per_block": up}


def _classes(rng: Random) -> Draw:
    kind = rng.choice((None, "table", "timestep", "identity", "projection", "simple_projection"))
    config: Draw = {"class_embed_type": None if kind == "table" else kind}
    if kind == "table":
        config["num_class_embeds"] = 5
    if kind in ("projection", "simple_projection"):
        config["projection_class_embeddings_input_dim"] = 34
    if kind is not None:
        config["class_embeddings_concat"] = rng.choice((False, True))
    if not config.get("class_embeddings_concat"):
        config["addition_embed_type"] = added = rng.choice((None, "text", "text_time"))
        if added == "text_time":
            config |= {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 34}
    return config


def _text(width: int, levels: int, rng: Random) -> Draw:
    hidden = rng.choice((None, 6))
    config: Draw = {
        "encoder_hid_dim": hidden,
        "encoder_hid_dim_type": hidden and rng.choice((None, "text_proj")),
    }
    config["cross_attention_dim"] = width
    config["addition_embed_type_num_heads"] = 2
    return config


def cases(count: int) -> Iterator[Draw]:
    """Configs, of which some have a text width for each level, where nothing else needs a single one."""
    for index in range(count):
        config = drawn(index)
        if (
            index % 3 == 0
            and config["encoder_hid_dim"] is None
            and config.get("addition_embed_type") != "text"
        ):
            config["cross_attention_dim"] = (config["cross_attention_dim"],) * len(
                config["block_out_channels"]
            )
        yield config


def shapes_of(value: Any) -> Any:
    """A value as the coverage counts it: sequences by their kind."""
    if isinstance(value, tuple):
        return "nested" if isinstance(value[0], tuple) else "tuple"
    return value


def test_the_draws_differ_from_one_another_and_cover_every_option() -> None:
    seen: defaultdict[str, set[Any]] = defaultdict(set)
    draws = list(cases(COUNT))
    for config in draws:
        for key, value in config.items():
            seen[key].add(shapes_of(value))
        seen["levels"].add(len(config["block_out_channels"]))
        seen["down"] |= set(config["down_block_types"])
        seen["up"] |= set(config["up_block_types"])
        seen["variance"].add(config["out_channels"] > config["in_channels"])
        seen["odd size"].add(bool(config["size"][0] % 2))
        if "num_class_embeds" in config:
            seen["class_embed_type"].add("table")
    seen["cross_attention_dim"] = {"int" if isinstance(v, int) else v for v in seen["cross_attention_dim"]}
    seen["reverse_transformer_layers_per_block"] = {
        value is not None for value in seen["reverse_transformer_layers_per_block"]
    }
    assert {key: seen[key] for key in EXPECTED} == EXPECTED
    assert len({json.dumps(config, sort_keys=True) for config in draws}) == COUNT >= 100


def features_in_float64(
    timesteps: Tensor,
    embedding_dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    scale: float = 1,
) -> Tensor:
    """diffusers expands time in float32 whatever its network computes in; for a float64 truth it must not."""
    half = embedding_dim // 2
    exponent = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angle = scale * timesteps.double()[:, None] * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()], dim=1)


@contextmanager
def in_float64() -> Iterator[None]:
    """Nothing in diffusers falls back to float32: neither its time features nor the softmax that pools a text."""
    shorten = torch.Tensor.float
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "get_timestep_embedding", features_in_float64)
        patch.setattr(
            torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else shorten(self)
        )
        yield


def reference(config: Draw) -> Any:
    """diffusers' model with every parameter drawn anew, those that start at zero or one included."""
    listed = {key: _listed(value) for key, value in config.items() if key not in ("size", "mask")}
    model = UNet2DConditionModel(**listed).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        std = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def _listed(value: Any) -> Any:
    """As a JSON file gives it."""
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def conditions(network: UNetCondition, batch: int, dtype: torch.dtype, mask: bool) -> dict[str, Tensor]:
    """What the network takes, a value of its own for each sample."""
    generator = torch.Generator().manual_seed(5)
    given: dict[str, Tensor] = {}
    for name, kind in network.conditioning.items():
        shape = (batch, *(TOKENS if size is None else size for size in kind.shape))
        if name == "text_mask":
            if mask:
                given[name] = torch.arange(TOKENS) < torch.arange(batch)[:, None] + 2
        elif kind.classes is not None:
            given[name] = torch.arange(batch) % kind.classes
        elif name == "size_and_crop":
            given[name] = torch.randint(0, 1024, shape, generator=generator).to(dtype)
        else:
            given[name] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return given


def theirs(model: Any, z: Tensor, time: Tensor, given: dict[str, Tensor]) -> Tensor:
    """diffusers' output, under its own names for the conditions."""
    added = {"text_embeds": "pooled_text_embedding", "time_ids": "size_and_crop"}
    unread = torch.zeros(len(z), 1, model.config.encoder_hid_dim or 1, dtype=z.dtype)
    result: Tensor = model(
        z,
        time,
        given.get("text_embedding", unread),
        class_labels=given.get("class_label", given.get("class_embedding")),
        timestep_cond=given.get("guidance_embedding"),
        encoder_attention_mask=given.get("text_mask"),
        added_cond_kwargs={key: given[name] for key, name in added.items() if name in given},
    ).sample
    return result


def relative_difference(
    network: UNetCondition, model: Any, config: Draw, level: NoiseLevel, dtype: torch.dtype
) -> float:
    generator = torch.Generator().manual_seed(1)
    batch = len(level.alpha)
    z = torch.randn(batch, config["in_channels"], *config["size"], generator=generator, dtype=torch.float64)
    given = conditions(network, batch, dtype, config["mask"])
    with torch.no_grad():
        output = network(z.to(dtype), level, given)
        expected = theirs(model, z.to(dtype), network.trained.network_time(level).to(dtype), given)
    got = output.prediction
    if output.variance is not None:
        got = torch.cat([got, output.variance], dim=1)
    assert expected.std() > 0.02, "an output that hardly varies tells nothing"
    return float((got - expected).abs().max() / expected.abs().max())


def is_equal(config: Draw, trained: Trained, level: Level) -> None:
    model = reference(config)
    document = json.loads(json.dumps({key: config[key] for key in config if key not in ("size", "mask")}))
    network = UNetCondition(UNetConditionConfig.model_validate(document), trained).eval()
    network.load_state_dict(model.state_dict(), strict=True)
    assert relative_difference(network, model, config, level(3.0, 640.0), torch.float32) < 2e-5
    network.double()
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    with in_float64():
        assert relative_difference(network, model, config, level(3.25, 999.0), torch.float64) < 1e-10


@pytest.mark.parametrize("config", list(cases(FEW)), ids=range(FEW))
def test_output_is_that_of_diffusers_to_2e_5_in_float32_and_1e_10_in_float64(
    config: Draw, trained: Trained, level: Level
) -> None:
    is_equal(config, trained, level)


@pytest.mark.slow
@pytest.mark.parametrize("config", list(cases(COUNT))[FEW:], ids=range(FEW, COUNT))
def test_output_of_every_other_draw_is_that_of_diffusers_too(
    config: Draw, trained: Trained, level: Level
) -> None:
    is_equal(config, trained, level)
