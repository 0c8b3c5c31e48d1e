"""What a PixArt config takes, derives and refuses."""

from __future__ import annotations

import inspect

import pytest
from ldm_dit import PixArtConfig
from pydantic import ValidationError

from ldm_registry.errors import SpecError


def test_defaults_and_keys_are_those_of_diffusers() -> None:
    model = pytest.importorskip("diffusers").PixArtTransformer2DModel
    parameters = inspect.signature(model.__init__).parameters
    theirs = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert PixArtConfig().model_dump() == theirs


def test_all_that_is_not_built_or_contradicts_itself_is_refused_at_once_and_by_name() -> None:
    with pytest.raises(SpecError) as refusal:
        PixArtConfig(
            norm_type="ada_norm_zero",
            activation_fn="gegelu",
            attention_type="gated",
            out_channels=5,
            num_attention_heads=2,
            attention_head_dim=1,
            patch_size=256,
            caption_channels=7,
        )
    words = [problem.split()[0] for problem in refusal.value.problems]
    assert words == [
        "norm_type",
        "activation_fn",
        "out_channels",
        "the",
        "patch_size",
        "attention_type",
        "caption_channels",
        "the",
    ]
    found = str(refusal.value)
    for fact in (
        "supported: ada_norm_single",
        "'geglu'",
        "supported: default",
        "the width 2, but",
        "of 4",
        "of 3",
    ):
        assert fact in found


@pytest.mark.parametrize(
    ("config", "text", "sees_size", "zoom"),
    [
        ({}, 1152, True, 2.0),
        ({"sample_size": 64}, 1152, False, 1.0),
        ({"sample_size": 127}, 1152, False, 1.0),
        ({"sample_size": 256, "use_additional_conditions": True, "caption_channels": 4096}, 4096, True, 4.0),
        ({"use_additional_conditions": False, "interpolation_scale": 1.5}, 1152, False, 1.5),
        ({"cross_attention_dim": None, "caption_channels": 4096}, None, True, 2.0),
    ],
    ids=str,
)
def test_what_is_left_open_follows_from_the_sizes(
    config: dict[str, object], text: int | None, sees_size: bool, zoom: float
) -> None:
    derived = PixArtConfig.model_validate(config)
    assert (derived.text_channels, derived.sees_size, derived.zoom) == (text, sees_size, zoom)


@pytest.mark.parametrize(
    "wrong",
    [{"interpolation_scale": 0}, {"num_embeds_ada_norm": None}, {"cross_attention_dim": 0}, {"num_layer": 1}],
    ids=str,
)
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PixArtConfig.model_validate(wrong)
