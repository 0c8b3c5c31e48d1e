"""What the config of a conditional UNet takes and refuses."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from ldm_unet import UNetConditionConfig
from ldm_unet.condition_kind import DOWN_BLOCKS, MID_BLOCKS, UP_BLOCKS
from ldm_unet.condition_plan import down_plans, mid_plan, up_plans
from pydantic import ValidationError

from ldm_registry.errors import SpecError

SMALL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
JOINT = {
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
    "mid_block_type": None,
}


def problems(**config: object) -> list[str]:
    with pytest.raises(SpecError) as refusal:
        UNetConditionConfig.model_validate(SMALL | config)
    return list(refusal.value.problems)


def test_keys_and_defaults_are_those_of_diffusers() -> None:
    model = pytest.importorskip("diffusers").UNet2DConditionModel
    parameters = inspect.signature(model.__init__).parameters
    theirs = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert UNetConditionConfig().model_dump(exclude={"null_class", "size_numbers"}) == theirs


def test_every_field_is_described() -> None:
    assert all(field.description for field in UNetConditionConfig.model_fields.values())


@pytest.mark.parametrize(
    ("key", "words", "known"),
    [
        ("down_block_types", ("KDownBlock2D", "DownBlock2D"), DOWN_BLOCKS),
        ("down_block_types", ("AttnSkipDownBlock2D", "DownBlock2D"), DOWN_BLOCKS),
        ("up_block_types", ("KCrossAttnUpBlock2D", "UpBlock2D"), UP_BLOCKS),
        ("mid_block_type", "UNetMidBlock2DFlat", MID_BLOCKS),
        ("encoder_hid_dim_type", "text_image_proj", ["text_proj"]),
        ("encoder_hid_dim_type", "image_proj", ["text_proj"]),
        ("addition_embed_type", "text_image", ["text", "text_time", "null"]),
        ("addition_embed_type", "image", ["text", "text_time", "null"]),
        ("addition_embed_type", "image_hint", ["text", "text_time", "null"]),
        ("attention_type", "gated", ["default"]),
        ("attention_type", "gated-text-image", ["default"]),
        ("resnet_time_scale_shift", "ada_group", ["default", "scale_shift"]),
        ("time_embedding_type", "learned", ["positional", "fourier"]),
        ("class_embed_type", "table", ["timestep", "identity", "projection", "simple_projection"]),
        ("act_fn", "tanh", ["silu", "gelu"]),
        ("time_embedding_act_fn", "tanh", ["silu", "gelu"]),
        ("timestep_post_act", "tanh", ["silu", "gelu"]),
        ("cross_attention_norm", "rms_norm", ["layer_norm", "group_norm"]),
    ],
    ids=str,
)
def test_a_word_that_is_not_built_is_refused_by_key_value_and_what_is_supported(
    key: str, words: Any, known: list[str]
) -> None:
    found = [line for line in problems(**{key: words, "encoder_hid_dim": 4}) if line.startswith(key)]
    assert len(found) == 1
    assert repr(words[0] if isinstance(words, tuple) else words) in found[0]
    assert all(word in found[0] for word in known)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dual_cross_attention": True}, "dual_cross_attention is true, which is not built"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4; expected null"),
        ({"norm_num_groups": None}, "norm_num_groups is null"),
        ({"in_channels": 9}, "out_channels is 4 and in_channels 9; expected out_channels 9, or 18"),
        ({"conv_in_kernel": 4}, "conv_in_kernel is 4; expected an odd number"),
        ({"conv_out_kernel": 2}, "conv_out_kernel is 2; expected an odd number"),
        ({"up_block_types": ("UpBlock2D",)}, "up_block_types has 1 entries; expected 2"),
        ({"only_cross_attention": (True,)}, "only_cross_attention has 1 entries"),
        ({"layers_per_block": (1, 2, 3)}, "layers_per_block has 3 entries"),
        ({"layers_per_block": 0}, "layers_per_block is 0; expected numbers from 1"),
        ({"attention_head_dim": (2, 0)}, "attention_head_dim is (2, 0); expected numbers from 1"),
        ({"transformer_layers_per_block": (1,)}, "transformer_layers_per_block has 1 entries"),
        ({"transformer_layers_per_block": ((1, 1), 1)}, "needs reverse_transformer_layers_per_block"),
        ({"reverse_transformer_layers_per_block": (1, (2, 2))}, "are [2, 2]; expected 3 numbers"),
        ({"transformer_layers_per_block": -1}, "expected numbers from 0"),
        ({"block_out_channels": (8, 18)}, "has 18, not a multiple of norm_num_groups 4"),
        ({"attention_head_dim": (9, 2)}, "asks for 9 heads of a stage 8 wide"),
        ({"freq_shift": 4}, "freq_shift is 4; expected less than half of block_out_channels[0], 4"),
        ({"time_embedding_type": "fourier", "time_embedding_dim": 7}, "is 7; expected an even number"),
        ({"encoder_hid_dim_type": "text_proj"}, "needs encoder_hid_dim"),
        ({"encoder_hid_dim": 3, "cross_attention_dim": (6, 6)}, "needs a single cross_attention_dim"),
        ({"class_embed_type": "projection"}, "needs projection_class_embeddings_input_dim"),
        ({"class_embed_type": "simple_projection"}, "needs projection_class_embeddings_input_dim"),
        ({"class_embeddings_concat": True}, "needs a class embedding"),
        (
            {"class_embeddings_concat": True, "num_class_embeds": 3, "addition_embed_type": "text"}
            | {"addition_embed_type_num_heads": 2},
            "exclude one another",
        ),
        ({"addition_embed_type": "text"}, "addition_embed_type_num_heads is 64; expected a divisor"),
        ({"addition_embed_type": "text_time"}, "needs addition_time_embed_dim"),
        (
            {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
            | {"projection_class_embeddings_input_dim": 24},
            "is 24; expected more than 24, which 6 numbers",
        ),
        ({"_null_class": 1}, "needs a class table"),
        ({"_null_class": 3, "num_class_embeds": 3}, "expected less than num_class_embeds 3"),
        (JOINT | {"attention_head_dim": 3}, "expected a divisor of 8 in SimpleCrossAttn blocks"),
        (JOINT | {"cross_attention_norm": "group_norm"}, "in multiples of 32; got 6"),
        (JOINT | {"cross_attention_norm": "layer_norm"}, "of the stage's width 8; got 6"),
        (
            {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "cross_attention_dim": (6, 7)},
            "differs between stages that read one text: 6, 7",
        ),
    ],
    ids=str,
)
def test_what_contradicts_itself_or_is_not_built_is_refused(config: dict[str, object], message: str) -> None:
    (problem,) = problems(**config)
    assert message in problem


@pytest.mark.parametrize(
    "wrong", [{"downsample_padding": 2}, {"dropout": 1.0}, {"channels": 3}, {"norm_eps": 0.0}], ids=str
)
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UNetConditionConfig.model_validate(SMALL | wrong)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = problems(
        down_block_types=("CrosAttnDownBlock2D", "KDownBlock2D"),
        act_fn="tanh",
        num_attention_heads=2,
        out_channels=5,
        attention_type="gated",
    )
    assert len(found) == 6
    assert "did you mean 'CrossAttnDownBlock2D'" in found[0]


def test_block_types_of_the_first_versions_are_those_of_today() -> None:
    old = UNetConditionConfig.model_validate(
        SMALL
        | {
            "down_block_types": ("UNetResCrossAttnDownBlock2D", "UNetResDownBlock2D"),
            "up_block_types": ("UNetResUpBlock2D", "UNetResCrossAttnUpBlock2D"),
        }
    )
    new = UNetConditionConfig.model_validate(SMALL)
    assert down_plans(old) == down_plans(new)
    assert up_plans(old) == up_plans(new)


def test_a_text_width_may_differ_where_no_text_is_read() -> None:
    config = UNetConditionConfig.model_validate(
        SMALL | {"cross_attention_dim": (6, 999), "mid_block_type": "UNetMidBlock2D"}
    )
    assert [plan.text_width for plan in down_plans(config)] == [6, 999]


def test_the_bottlenecks_joint_attention_follows_a_single_only_cross_attention_and_its_own_key() -> None:
    def only(**config: object) -> bool:
        plan = mid_plan(
            UNetConditionConfig.model_validate(
                SMALL | {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"} | config
            )
        )
        assert plan is not None
        return plan.only_cross

    assert only(only_cross_attention=True)
    assert not only(only_cross_attention=(True, True))
    assert not only(only_cross_attention=True, mid_block_only_cross_attention=False)
    assert only(mid_block_only_cross_attention=True)


def test_own_keys_are_written_with_an_underscore_and_survive_a_round_trip() -> None:
    config = UNetConditionConfig.model_validate(
        SMALL | {"num_class_embeds": 10, "_null_class": 9, "_size_numbers": 5}
    )
    document = config.model_dump(by_alias=True, mode="json")
    assert (document["_null_class"], document["_size_numbers"]) == (9, 5)
    assert UNetConditionConfig.model_validate(document) == config


def test_the_card_lists_every_key_with_its_default_and_meaning() -> None:
    card = Path(__file__).parents[1].joinpath("README.md").read_text()
    defaults = UNetConditionConfig().model_dump(mode="json")
    for name, field in UNetConditionConfig.model_fields.items():
        assert f"| `{field.alias or name}` | `{json.dumps(defaults[name])}` | {field.description} |" in card
