"""What a DiT's config takes and refuses."""

from __future__ import annotations

import pytest
from ldm_dit import DiTConfig
from pydantic import ValidationError

from ldm_registry.errors import SpecError


def test_all_that_is_not_built_is_refused_at_once_and_by_name() -> None:
    with pytest.raises(SpecError) as refusal:
        DiTConfig(
            norm_type="ada_norm_single",
            activation_fn="gegelu",
            out_channels=5,
            attention_head_dim=1,
            patch_size=64,
        )
    lines = str(refusal.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["norm_type", "activation_fn", "out_channels", "patch_size"]
    assert "ada_norm_zero" in lines[0]
    assert "'geglu'" in lines[1]
    assert "expected 4, or 8" in lines[2]


def test_a_width_that_positions_cannot_fill_is_refused() -> None:
    with pytest.raises(SpecError, match="3 x 2 = 6 is not a multiple of 4"):
        DiTConfig(num_attention_heads=3, attention_head_dim=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_layers": 0},
        {"patch_size": 0},
        {"dropout": 1.0},
        {"num_embeds_ada_norm": None},
        {"norm_epsilon": 1e-6},
    ],
    ids=str,
)
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DiTConfig.model_validate(wrong)


def test_the_own_key_is_written_with_an_underscore_and_survives_a_round_trip() -> None:
    config = DiTConfig(time_freq_shift=0.0)
    document = config.model_dump(by_alias=True)
    assert document["_time_freq_shift"] == 0.0
    assert DiTConfig.model_validate(document) == config


def test_every_field_is_described() -> None:
    assert all(field.description for field in DiTConfig.model_fields.values())


def test_the_schema_for_editors_lists_the_words() -> None:
    properties = DiTConfig.model_json_schema()["properties"]
    assert "swiglu" in properties["activation_fn"]["enum"]
