"""A hundred configs of each transformer, drawn at random, against diffusers on the same weights.

diffusers expands time in float32 whatever its network computes in: for float64 numbers that function of its is
replaced by one in float64, for float32 numbers diffusers is left as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from ldm_dit import DiT, DiTConfig, PixArt, PixArtConfig
from ldm_dit.transformer_config import ACTIVATIONS
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel, Trained

diffusers = pytest.importorskip("diffusers")

COUNT = 120
QUICK = 10
BATCH = 3
MASKED_SAMPLE = 1
TIMES = (3.25, 640.0, 999.0)


@dataclass
class Case:
    """A config in diffusers' keys, the grid of patches of the latent, and what the text is like."""

    config: dict[str, Any]
    grid: tuple[int, int]
    mask: str = "none"
    tokens: int = 0
    sees_size: bool = False
    notes: set[str] = field(default_factory=set)


def shared(draw: random.Random, *, thirds: bool) -> dict[str, Any]:
    """The keys that both classes have; the width is a multiple of 4, and of 3 if it must be."""
    heads = draw.choice([1, 2, 3, 4])
    head = next(
        size
        for size in iter(lambda: draw.randint(1, 12), None)
        if heads * size % (12 if thirds else 4) == 0 and heads * size >= 8
    )
    channels = draw.choice([1, 3, 4, 5])
    return {
        "num_attention_heads": heads,
        "attention_head_dim": head,
        "in_channels": channels,
        "out_channels": draw.choice([None, channels, 2 * channels]),
        "num_layers": draw.choice([1, 2, 3, 5]),
        "dropout": draw.choice([0.0, 0.2]),
        "norm_num_groups": draw.choice([32, 7]),
        "attention_bias": draw.choice([False, True]),
        "activation_fn": draw.choice(ACTIVATIONS),
        "upcast_attention": draw.choice([False, True]),
        "norm_elementwise_affine": draw.choice([False, True]),
        "norm_eps": draw.choice([1e-6, 1e-5, 1e-2]),
    }


def draw_dit(seed: int) -> Case:
    draw = random.Random(f"dit {seed}")
    patch = draw.choice([1, 2, 3, 4])
    side = draw.choice([2, 3, 4])
    config = shared(draw, thirds=False) | {
        "patch_size": patch,
        # The cells that are left over make no patch.
        "sample_size": patch * side + draw.randrange(patch),
        "num_embeds_ada_norm": draw.choice([3, 7, 30]),
    }
    # diffusers' DiT puts every output together as a square.
    grid = draw.choice([side, side, side + 1, 2 * side])
    return Case(config, (grid, grid))


def draw_pixart(seed: int) -> Case:
    draw = random.Random(f"pixart {seed}")
    additional = draw.choice([None, None, False, True])
    # 128 cells with few patches: diffusers adds size conditions by the number of cells alone.
    sample, patch = draw.choice([(128, 32), (64, 16), (192, 48), (8, 2), (9, 2), (5, 1), (6, 3)])
    sees_size = sample == 128 if additional is None else additional
    config = shared(draw, thirds=sees_size) | {
        "sample_size": sample,
        "patch_size": patch,
        "use_additional_conditions": additional,
        "interpolation_scale": draw.choice([None, None, 1, 2, 0.5]),
        "num_embeds_ada_norm": 1000,
        "attention_type": draw.choice(["default", None]),
    }
    if patch > 16:
        config["num_layers"] = 1
        config["in_channels"] = 1
        config["out_channels"] = draw.choice([None, 2])
    width = config["num_attention_heads"] * config["attention_head_dim"]
    text = draw.choice(["projected", "projected", "direct", "none"])
    config["cross_attention_dim"] = {"projected": width, "direct": draw.choice([5, width]), "none": None}[
        text
    ]
    config["caption_channels"] = draw.choice([6, 11]) if text == "projected" else None
    base = sample // patch
    grid = draw.choice([(base, base), (base, base), (base + 1, base + 1), (base, base + 2), (2, 1), (1, 1)])
    mask = draw.choice(["none", "some", "some", "all of one"])
    return Case(config, grid, mask, draw.choice([1, 4, 7]), sees_size, {text})


def marked(draw: Callable[[int], Case]) -> list[Any]:
    return [
        pytest.param(draw(seed), id=str(seed), marks=[] if seed < QUICK else pytest.mark.slow)
        for seed in range(COUNT)
    ]


def latent(case: Case, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    patch = case.config["patch_size"]
    shape = (BATCH, case.config["in_channels"], case.grid[0] * patch, case.grid[1] * patch)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def conditions(case: Case, network: PixArt, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    values: dict[str, Tensor] = {}
    channels = network.config.text_channels
    if channels is not None:
        shape = (BATCH, case.tokens, channels)
        values["text_embedding"] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        mask = torch.rand(BATCH, case.tokens, generator=generator) < 0.6
        mask[:, 0] = True
        if case.mask == "all of one":
            mask[MASKED_SAMPLE] = False
        if case.mask != "none":
            values["text_mask"] = mask
    if case.sees_size:
        sizes = torch.randint(16, 2048, (BATCH, 2), generator=generator).to(dtype)
        values["resolution"], values["aspect_ratio"] = sizes, sizes[:, :1] / sizes[:, 1:]
    return values


def relative_errors(got: Tensor, expected: Tensor) -> Tensor:
    """Of each sample, relative to the largest number in the batch."""
    assert got.shape == expected.shape
    assert expected.std() > 0.02
    return (got - expected).abs().amax(dim=(1, 2, 3)) / expected.abs().max()


def whole(network: DiT | PixArt, z: Tensor, level: NoiseLevel, condition: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output = network(z, level, condition)
    assert (output.variance is not None) == network.config.learns_variance
    parts = [output.prediction] if output.variance is None else [output.prediction, output.variance]
    return torch.cat(parts, dim=1)


def pair(
    theirs: Any, ours: DiT | PixArt, randomise: Callable[..., None], dtype: torch.dtype
) -> tuple[Any, DiT | PixArt]:
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval().to(dtype), ours.eval().to(dtype)


def dit_errors(case: Case, trained: Trained, randomise: Callable[..., None], dtype: torch.dtype) -> Tensor:
    theirs, ours = pair(
        diffusers.DiTTransformer2DModel(**case.config),
        DiT(DiTConfig.model_validate(case.config), trained),
        randomise,
        dtype,
    )
    z, times = latent(case, dtype), torch.tensor(TIMES, dtype=torch.float64)
    label = torch.tensor([0, case.config["num_embeds_ada_norm"], 2])
    with torch.no_grad():
        expected = theirs(z, times.to(dtype), label).sample
    return relative_errors(whole(ours, z, trained.schedule.level(times), {"class_label": label}), expected)


def pixart_errors(case: Case, trained: Trained, randomise: Callable[..., None], dtype: torch.dtype) -> Tensor:
    theirs, ours = pair(
        diffusers.PixArtTransformer2DModel(**case.config),
        PixArt(PixArtConfig.model_validate(case.config), trained),
        randomise,
        dtype,
    )
    assert isinstance(ours, PixArt)
    z, times = latent(case, dtype), torch.tensor(TIMES, dtype=torch.float64)
    condition = conditions(case, ours, dtype)
    assert condition.keys() | {"text_mask"} >= ours.conditioning.keys()
    with torch.no_grad():
        expected = theirs(
            z,
            condition.get("text_embedding"),
            times.to(dtype),
            {name: condition[name] for name in ("resolution", "aspect_ratio")} if case.sees_size else None,
            encoder_attention_mask=condition.get("text_mask"),
        ).sample
    return relative_errors(whole(ours, z, trained.schedule.level(times), condition), expected)


@pytest.mark.parametrize("case", marked(draw_dit))
def test_any_dit_gives_the_float64_numbers_of_diffusers(
    case: Case, trained: Trained, randomise: Callable[..., None], exact_time_features: None
) -> None:
    assert dit_errors(case, trained, randomise, torch.float64).max() < 1e-10


@pytest.mark.parametrize("case", marked(draw_dit))
def test_any_dit_gives_the_float32_numbers_of_diffusers(
    case: Case, trained: Trained, randomise: Callable[..., None]
) -> None:
    assert dit_errors(case, trained, randomise, torch.float32).max() < 2e-5


@pytest.mark.parametrize("case", marked(draw_pixart))
def test_any_pixart_gives_the_float64_numbers_of_diffusers(
    case: Case, trained: Trained, randomise: Callable[..., None], exact_time_features: None
) -> None:
    assert pixart_errors(case, trained, randomise, torch.float64).max() < 1e-10


@pytest.mark.parametrize("case", marked(draw_pixart))
def test_any_pixart_gives_the_float32_numbers_of_diffusers(
    case: Case, trained: Trained, randomise: Callable[..., None]
) -> None:
    errors = pixart_errors(case, trained, randomise, torch.float32)
    # Logits near -10000 are rounded to multiples of 2**-10: whatever reads a wholly masked text shakes by that.
    allowed = [
        1e-3 if case.mask == "all of one" and sample == MASKED_SAMPLE else 2e-5 for sample in range(BATCH)
    ]
    assert (errors < torch.tensor(allowed)).all(), errors


def drawn(cases: list[Case], key: str) -> set[Any]:
    return {case.config[key] for case in cases}


@pytest.mark.parametrize("draw", [draw_dit, draw_pixart])
def test_the_draws_differ_and_take_every_value_that_both_classes_share(draw: Callable[[int], Case]) -> None:
    cases = [draw(seed) for seed in range(COUNT)]
    assert len({repr(case) for case in cases}) >= 100
    assert drawn(cases, "activation_fn") == set(ACTIVATIONS)
    assert drawn(cases, "num_layers") == {1, 2, 3, 5}
    for key in ("attention_bias", "upcast_attention", "norm_elementwise_affine"):
        assert drawn(cases, key) == {False, True}
    assert drawn(cases, "num_attention_heads") == {1, 2, 3, 4}
    outputs = {(case.config["out_channels"] or 0) / case.config["in_channels"] for case in cases}
    assert outputs == {0, 1, 2}
    assert any(case.config["sample_size"] % case.config["patch_size"] for case in cases)
    bases = [case.config["sample_size"] // case.config["patch_size"] for case in cases]
    assert {case.grid == (base, base) for case, base in zip(cases, bases, strict=True)} == {False, True}


def test_the_draws_of_pixart_take_every_kind_of_condition() -> None:
    cases = [draw_pixart(seed) for seed in range(COUNT)]
    assert {frozenset(case.notes) for case in cases} == {
        frozenset({"projected"}),
        frozenset({"direct"}),
        frozenset({"none"}),
    }
    assert {(case.mask, "none" not in case.notes) for case in cases} >= {
        (mask, True) for mask in ("none", "some", "all of one")
    }
    assert {(case.config["use_additional_conditions"], case.sees_size) for case in cases} == {
        (None, True),
        (None, False),
        (True, True),
        (False, False),
    }
    assert drawn(cases, "interpolation_scale") == {None, 1, 2, 0.5}
    assert any(case.grid[0] != case.grid[1] for case in cases)
