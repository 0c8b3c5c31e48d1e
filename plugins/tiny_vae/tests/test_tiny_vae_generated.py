"""Whatever valid config is drawn, the codec gives what diffusers gives on the same weights."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from ldm_tiny_vae import TinyDecoder, TinyEncoder, TinyVAEConfig

diffusers = pytest.importorskip("diffusers")

Case = tuple[dict[str, Any], tuple[int, int], tuple[int, int]]
"""Config keys, height and width of the image, height and width of the latent."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "in_channels": (1, 3, 4),
    "out_channels": (1, 3, 5),
    "act_fn": ("silu", "swish", "mish", "gelu", "relu", "ReLU"),
    "upsample_fn": ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    "latent_channels": (1, 4, 16),
    "upsampling_scaling_factor": (1, 2, 3),
    "latent_magnitude": (3, 1.5),
    "latent_shift": (0.5, 0.25),
    "force_upcast": (False, True),
    "scaling_factor": (1.0, 0.3611),
    "shift_factor": (0.0, 0.1159),
}
LEVELS, BLOCKS = (2, 3, 4), (0, 1, 2)


def draw(rng: random.Random) -> Case:
    keys = {key: rng.choice(values) for key, values in CHOICES.items()}
    levels = {half: rng.choice(LEVELS) for half in ("encoder", "decoder")}
    for half, count in levels.items():
        keys[f"{half}_block_out_channels"] = (rng.randint(2, 12),) * count
        keys[f"num_{half}_blocks"] = tuple(rng.choice(BLOCKS) for _ in range(count))
    stride = 2 ** (levels["encoder"] - 1)
    height, width = rng.sample((2, 3, 5), 2)
    return keys, (height * stride, width * stride), (height, width)


def drawn(count: int) -> list[Case]:
    """As many cases, no config twice."""
    rng, cases = random.Random(0), {}
    while len(cases) < count:
        case = draw(rng)
        cases[repr(case[0])] = case
    return list(cases.values())


CASES = drawn(120)


def reference_of(keys: dict[str, Any], seed: int) -> Any:
    """A model of diffusers in float32, every parameter off its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reference = diffusers.AutoencoderTiny(**keys).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                spread = 0.3 if parameter.ndim == 1 else 0.5 * float(parameter.std(correction=0))
                parameter.add_(spread * torch.randn_like(parameter))
    return reference


def halves_of(reference: Any, keys: dict[str, Any]) -> tuple[TinyEncoder, TinyDecoder]:
    config, weights = TinyVAEConfig(**keys), reference.state_dict()
    halves = TinyEncoder(config).eval(), TinyDecoder(config).eval()
    for half in halves:
        half.load_state_dict({k: v for k, v in weights.items() if not k.startswith(half.sibling_prefixes)})
    return halves


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def assert_equal_to_diffusers(case: Case, seed: int) -> None:
    keys, size, latent_size = case
    single, generator = reference_of(keys, seed), torch.Generator().manual_seed(seed)
    pixels = torch.rand(2, keys["in_channels"], *size, generator=generator, dtype=torch.float64) * 2 - 1
    drawn_raw = 2 * torch.randn(
        2, keys["latent_channels"], *latent_size, generator=generator, dtype=torch.float64
    )
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        reference = copy.deepcopy(single).to(dtype)
        encoder, decoder = (half.to(dtype) for half in halves_of(single, keys))
        scale, shift = reference.config.scaling_factor, reference.config.shift_factor
        latent = (reference.encode(pixels.to(dtype)).latents - shift) * scale
        assert relative(encoder.encode(pixels.to(dtype)), latent) < tolerance, keys
        raw = drawn_raw.to(dtype)
        image = reference.decode(raw).sample
        assert relative(decoder.decode((raw - shift) * scale), image) < tolerance, keys
        assert image.shape[2] == latent_size[0] * decoder.latent_space.stride


@pytest.mark.parametrize("first", range(0, len(CASES), 12))
def test_drawn_configs_give_the_numbers_of_diffusers(first):
    for seed in range(first, first + 12):
        assert_equal_to_diffusers(CASES[seed], seed)


def test_every_value_of_interest_is_drawn():
    for key, values in CHOICES.items():
        assert {repr(case[0][key]) for case in CASES} == {repr(value) for value in values}, key
    for half in ("encoder", "decoder"):
        counts = [keys[f"num_{half}_blocks"] for keys, _, _ in CASES]
        assert {len(one) for one in counts} == set(LEVELS)
        assert {blocks for one in counts for blocks in one} == set(BLOCKS)
    widths = [[keys[f"{half}_block_out_channels"] for half in ("encoder", "decoder")] for keys, _, _ in CASES]
    assert {encoder[0] == decoder[0] for encoder, decoder in widths} == {True, False}
    assert {len(encoder) == len(decoder) for encoder, decoder in widths} == {True, False}
    assert all(height != width for _, (height, width), _ in CASES)
    assert any(side & (side - 1) for _, size, _ in CASES for side in size)
