"""Whatever valid config is drawn, the codec gives what diffusers gives on the same weights."""

from __future__ import annotations

import copy
import inspect
import random
import re
from typing import Any

import pytest
import torch
from ldm_vq_vae import VQDecoder, VQEncoder, VQVAEConfig

from ldm_registry.errors import SpecError

diffusers = pytest.importorskip("diffusers")

Case = tuple[dict[str, Any], int, int]
"""Config keys, image height, image width."""

DOWN, UP = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
CHOICES: dict[str, tuple[Any, ...]] = {
    "in_channels": (1, 3, 4),
    "out_channels": (1, 3, 5),
    "layers_per_block": (0, 1, 2),
    "act_fn": ("silu", "swish", "mish", "gelu", "relu", "SiLU"),
    "latent_channels": (2, 3, 4),
    "norm_num_groups": (1, 2, 4),
    "sample_size": (32, (16, 24)),
    "num_vq_embeddings": (1, 7, 60),
    "scaling_factor": (0.18215, 1.0, 0.75),
    "mid_block_add_attention": (True, False),
    "lookup_from_codebook": (True, False),
    "force_upcast": (True, False),
}
LEVELS, CODE_CHANNELS = (2, 3, 4), (None, 2, 7)


def draw(rng: random.Random) -> Case:
    keys = {key: rng.choice(values) for key, values in CHOICES.items()}
    levels, groups = rng.choice(LEVELS), keys["norm_num_groups"]
    # A group of a handful of values is ill conditioned: float32 loses the digits here and in diffusers alike.
    widths = [groups * rng.randint(2, 12 // groups) for _ in range(levels)]
    keys["norm_type"] = rng.choice(("group", "group", "spatial"))
    if keys["norm_type"] == "spatial":
        widths = [rng.choice((64, 96)) for _ in range(levels)]  # a spatial norm has 32 groups
    else:
        keys["vq_embed_dim"] = rng.choice(CODE_CHANNELS)
    if keys["layers_per_block"] == 0:
        widths = widths[:1] * levels
    keys["block_out_channels"] = tuple(widths)
    keys["down_block_types"] = tuple(rng.choice(DOWN) for _ in range(levels))
    keys["up_block_types"] = tuple(rng.choice(UP) for _ in range(levels))
    height, width = rng.sample((2, 3, 5), 2)
    return keys, height * 2 ** (levels - 1), width * 2 ** (levels - 1)


def drawn(count: int) -> list[Case]:
    """As many cases, no config twice."""
    rng, cases = random.Random(0), {}
    while len(cases) < count:
        case = draw(rng)
        cases[repr(case[0])] = case
    return list(cases.values())


CASES = drawn(120)


def reference_of(keys: dict[str, Any], seed: int) -> Any:
    """A model of diffusers in float32, every parameter off its initial value, codes as far apart as latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reference = diffusers.VQModel(**keys).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                spread = 0.3 if parameter.ndim == 1 else 0.5 * float(parameter.std(correction=0))
                parameter.add_(spread * torch.randn_like(parameter))
            reference.quantize.embedding.weight.normal_(std=1.0)
    return reference


def halves_of(reference: Any, keys: dict[str, Any]) -> tuple[VQEncoder, VQDecoder]:
    config, weights = VQVAEConfig(**keys), reference.state_dict()
    halves = VQEncoder(config).eval(), VQDecoder(config).eval()
    for half in halves:
        half.load_state_dict({k: v for k, v in weights.items() if not k.startswith(half.sibling_prefixes)})
    return halves


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def clear_of_borders(raw: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Raw latents of which each has one nearest code by a margin that float32 can tell: others become that code."""
    rows, codes = raw.double().permute(0, 2, 3, 1), codes.double()
    squares = (rows.unsqueeze(-2) - codes).square().sum(-1).sort(-1)
    if len(codes) > 1:
        margin = 1e-4 * (rows.square().sum(-1) + codes.square().sum(-1).max())
        close = squares.values[..., 1] - squares.values[..., 0] < margin
        rows = torch.where(close.unsqueeze(-1), codes[squares.indices[..., 0]], rows)
    return rows.permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def assert_equal_to_diffusers(case: Case, seed: int) -> None:
    keys, height, width = case
    single, generator = reference_of(keys, seed), torch.Generator().manual_seed(seed)
    pixels = (
        torch.rand(2, keys["in_channels"], height, width, generator=generator, dtype=torch.float64) * 2 - 1
    )
    codes = single.quantize.embedding.weight
    shape = single.encode(pixels.float()).latents.shape
    drawn_raw = clear_of_borders(torch.randn(shape, generator=generator, dtype=torch.float64), codes)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        reference = copy.deepcopy(single).to(dtype)
        encoder, decoder = (half.to(dtype) for half in halves_of(single, keys))
        # As LDMPipeline does, which divides by the factor before it decodes.
        scale = reference.config.scaling_factor
        latent = reference.encode(pixels.to(dtype)).latents * scale
        assert relative(encoder.encode(pixels.to(dtype)), latent) < tolerance, keys
        raw = drawn_raw.to(dtype)
        assert relative(decoder.decode(raw * scale), reference.decode(raw).sample) < tolerance, keys
        assert len(codes) == 1 or decoder.quantize(raw).codes.unique().numel() > 1


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_config_gives_the_numbers_of_diffusers(seed):
    assert_equal_to_diffusers(CASES[seed], seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12, len(CASES), 12))
def test_many_more_drawn_configs_give_the_numbers_of_diffusers(first):
    for seed in range(first, first + 12):
        assert_equal_to_diffusers(CASES[seed], seed)


def test_every_value_of_interest_is_drawn():
    for key, values in CHOICES.items():
        assert {repr(case[0][key]) for case in CASES} == {repr(value) for value in values}, key
    assert {len(keys["block_out_channels"]) for keys, _, _ in CASES} == set(LEVELS)
    for key, types in (("down_block_types", DOWN), ("up_block_types", UP)):
        mixed = [set(keys[key]) for keys, _, _ in CASES]
        assert set(map(frozenset, mixed)) == {frozenset(types), frozenset(types[:1]), frozenset(types[1:])}
    assert {keys["vq_embed_dim"] for keys, _, _ in CASES if keys["norm_type"] == "group"} == set(
        CODE_CHANNELS
    )
    spatial = [keys for keys, _, _ in CASES if keys["norm_type"] == "spatial"]
    assert len(spatial) > 20
    assert {UP[1] in keys["up_block_types"] for keys in spatial} == {True, False}
    assert all(height != width for _, height, width in CASES)
    assert any(side & (side - 1) for _, *sides in CASES for side in sides)


def works_in_diffusers(keys: dict[str, Any]) -> bool:
    try:
        with torch.no_grad():
            diffusers.VQModel(**keys)(torch.zeros(1, 3, 4, 4))
    except Exception:  # whatever it is, diffusers does not run this config
        return False
    return True


def known_here(keys: dict[str, Any]) -> bool:
    try:
        VQVAEConfig(**keys)
    except SpecError:
        return False
    return True


BLOCK_TYPES = [("down_block_types", "get_down_block"), ("up_block_types", "get_up_block")]


@pytest.mark.parametrize(("key", "source"), BLOCK_TYPES)
def test_a_block_type_is_taken_exactly_if_it_works_in_diffusers(key, source):
    blocks = pytest.importorskip("diffusers.models.unets.unet_2d_blocks")
    names = set(re.findall(r'== "(\w+2D)"', inspect.getsource(getattr(blocks, source))))
    assert len(names) > 10
    taken = set()
    for name in names | {f"UNetRes{name}" for name in names}:
        keys = {"block_out_channels": (4, 4), "norm_num_groups": 2}
        keys |= {"down_block_types": (DOWN[0],) * 2, "up_block_types": (UP[0],) * 2, key: (name,) * 2}
        assert known_here(keys) == works_in_diffusers(keys), name
        taken |= {name} & names if known_here(keys) else set()
    assert taken == set(DOWN if key == "down_block_types" else UP)


def test_an_old_prefix_of_a_block_type_is_taken_off():
    keys = {"block_out_channels": (4, 8), "norm_num_groups": 2, "up_block_types": UP[:1] * 2}
    old = VQVAEConfig(down_block_types=tuple(f"UNetRes{name}" for name in DOWN), **keys)
    assert old == VQVAEConfig(down_block_types=DOWN, **keys)
