"""What a UNet's config takes and refuses."""

from __future__ import annotations

import pytest
from ldm_unet import UNet, UNetConfig
from ldm_unet.stage_kind import DOWN_BLOCKS, UP_BLOCKS
from pydantic import ValidationError

from ldm_registry.errors import SpecError

TWO = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


def problems(**config: object) -> list[str]:
    with pytest.raises(SpecError) as refusal:
        UNetConfig.model_validate(TWO | config)
    return list(refusal.value.problems)


@pytest.mark.parametrize(
    "word",
    [
        "CrossAttnDownBlock2D",
        "SimpleCrossAttnDownBlock2D",
        "KDownBlock2D",
        "KCrossAttnDownBlock2D",
        "DownEncoderBlock2D",
    ],
)
def test_a_block_that_is_not_built_is_refused_by_name_with_all_that_are(word: str) -> None:
    (problem,) = problems(down_block_types=("DownBlock2D", word))
    assert repr(word) in problem
    assert all(known in problem for known in DOWN_BLOCKS)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = problems(
        up_block_types=("UpBlock", "KUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        time_embedding_type="sinusoidal",
        resnet_time_scale_shift="ada_group",
        act_fn="tanh",
        class_embed_type="projection",
        downsample_type="fir",
        upsample_type="fir",
        out_channels=5,
    )
    assert len(found) == 10
    assert all(known in found[0] for known in UP_BLOCKS)
    assert "did you mean 'UpBlock2D'" in found[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"block_out_channels": (32, 64, 96)}, "have 2, 2 and 3 entries"),
        ({"block_out_channels": (32, 48)}, "48 has 48 channels, not a multiple of norm_num_groups 32"),
        ({"attention_head_dim": 96}, "has 64 with attention, less than attention_head_dim 96"),
        ({"attn_norm_num_groups": 5}, "64 has 64 channels, not a multiple of attn_norm_num_groups 5"),
        ({"time_embedding_type": "learned"}, "needs num_train_timesteps"),
        ({"freq_shift": 16}, "none would be finite"),
        (
            {"norm_num_groups": None},
            "norm_num_groups is null, but DownBlock2D of block_out_channels 32 needs it",
        ),
        ({"null_class": 3}, "needs a class table"),
        ({"null_class": 10, "num_class_embeds": 10}, "expected less than num_class_embeds 10"),
        ({"null_class": 1, "num_class_embeds": 10, "class_embed_type": "identity"}, "needs a class table"),
    ],
    ids=str,
)
def test_sizes_that_contradict_one_another_are_refused(config: dict[str, object], message: str) -> None:
    (problem,) = problems(**config)
    assert message in problem


SKIP = {
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "norm_num_groups": None,
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 4, "out_channels": 4, "up_block_types": ("UpBlock2D",) * 2}, "read an image of 3"),
        ({"out_channels": 6}, "out_channels is 6; Skip blocks on the way up paint an image of 3 channels"),
        (
            {"down_block_types": ("DownBlock2D", "SkipDownBlock2D", "DownBlock2D")},
            "Skip block after one without",
        ),
        ({"up_block_types": ("SkipUpBlock2D", "UpBlock2D", "SkipUpBlock2D")}, "without Skip after one with"),
        ({"up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D", "UpBlock2D")}, "without Skip after one with"),
        (
            {"block_out_channels": (34, 64), "norm_num_groups": 1},
            "34 channels, not a multiple of the number of groups",
        ),
        (
            {"block_out_channels": (64, 48), "norm_num_groups": 1},
            "not a multiple of its attention's groups, 32",
        ),
    ],
    ids=str,
)
def test_images_that_would_not_fit_are_refused(config: dict[str, object], message: str) -> None:
    skip = SKIP | {"norm_num_groups": 8}
    if any(len(value) == 3 for value in config.values() if isinstance(value, tuple)):
        skip |= {
            "block_out_channels": (32, 32, 32),
            "down_block_types": ("SkipDownBlock2D",) * 3,
            "up_block_types": ("SkipUpBlock2D",) * 3,
        }
    found = problems(**(skip | config))
    assert any(message in problem for problem in found), found


def test_without_groups_skip_blocks_take_a_fourth_of_their_channels() -> None:
    config = UNetConfig.model_validate(TWO | SKIP)
    assert config.norm_num_groups is None
    assert config.bottleneck_norm_groups == 16


def test_keys_and_words_of_the_first_versions_are_adopted() -> None:
    older = {
        "image_size": 32,
        "num_res_blocks": 1,
        "block_channels": [32, 64],
        "down_blocks": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"],
        "up_blocks": ["UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
        "downscale_freq_shift": 1,
        "resnet_num_groups": 16,
        "resnet_act_fn": "SiLU",
        "resnet_eps": 1e-6,
        "num_head_channels": 32,
        "downsample_type": None,
        "upsample_type": None,
    }
    assert UNetConfig.model_validate(UNet.adopt_config(older)) == UNetConfig(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        freq_shift=1,
        norm_num_groups=16,
        act_fn="silu",
        norm_eps=1e-6,
        attention_head_dim=32,
    )


def test_a_key_in_its_older_and_its_present_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="image_size"):
        UNetConfig.model_validate(UNet.adopt_config({"image_size": 32, "sample_size": 64}))


@pytest.mark.parametrize(
    "wrong", [{"layers_per_block": 0}, {"downsample_padding": 2}, {"dropout": 1.0}, {"channels": 3}], ids=str
)
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UNetConfig.model_validate(TWO | wrong)


def test_the_own_key_is_written_with_an_underscore_and_survives_a_round_trip() -> None:
    config = UNetConfig.model_validate(TWO | {"num_class_embeds": 10, "_null_class": 9})
    document = config.model_dump(by_alias=True, mode="json")
    assert document["_null_class"] == 9
    assert UNetConfig.model_validate(document) == config


def test_every_field_is_described() -> None:
    assert all(field.description for field in UNetConfig.model_fields.values())


def test_the_schema_for_editors_lists_the_words() -> None:
    properties = UNetConfig.model_json_schema()["properties"]
    assert "fourier" in properties["time_embedding_type"]["enum"]


def test_levels_without_attention_may_be_narrower_than_a_head() -> None:
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    config = UNetConfig.model_validate(TWO | blocks | {"attention_head_dim": 64})
    assert config.block_out_channels[0] < 64
