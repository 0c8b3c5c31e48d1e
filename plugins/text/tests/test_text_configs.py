"""What the configs of text encoders take, drop and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from ldm_text import CLIPText, CLIPTextConfig, T5Text, T5TextConfig
from pydantic import ValidationError

from ldm_registry.errors import SpecError

# As they stand in the folders of Stable Diffusion 1.x and of T5 version 1.1.
OLD_CLIP = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
OLD_T5 = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
    "n_positions": 512,
    "task_specific_params": {"summarization": {"num_beams": 4}},
}
PAIRS = [(CLIPText, "CLIPTextConfig", OLD_CLIP), (T5Text, "T5Config", OLD_T5)]


@pytest.mark.parametrize(
    ("component", "theirs", "old"), PAIRS, ids=lambda value: getattr(value, "name", None)
)
def test_defaults_are_those_of_transformers(component: Any, theirs: str, old: dict[str, Any]) -> None:
    reference = getattr(transformers, theirs)()
    for name, field in component.Config.model_fields.items():
        if field.alias is None and name not in (
            "architectures",
            "model_type",
            "use_attention_mask",
            "dense_act_fn",
            "is_gated_act",
        ):
            assert field.default == getattr(reference, name), name
    assert component.Config().model_type == reference.model_type


@pytest.mark.parametrize(
    ("component", "theirs", "old"), PAIRS, ids=lambda value: getattr(value, "name", None)
)
def test_every_key_that_transformers_writes_is_taken_or_dropped(
    component: Any, theirs: str, old: dict[str, Any], tmp_path: Path
) -> None:
    reference = getattr(transformers, theirs)()
    reference.save_pretrained(tmp_path)
    short = json.loads((tmp_path / "config.json").read_text())
    for stored in (short, reference.to_dict(), old):
        values = {key: value for key, value in stored.items() if not key.startswith("_")}
        config = component.Config.model_validate(component.adopt_config(values))
        kept = {key: value for key, value in values.items() if key in component.Config.model_fields}
        assert len(kept) >= 12
        dumped = config.model_dump(mode="json")
        for key, value in kept.items():
            if value is not None:
                assert dumped[key] == value, key


@pytest.mark.parametrize("component", [CLIPText, T5Text])
def test_what_makes_another_network_of_it_is_refused_by_name(component: Any) -> None:
    with pytest.raises(SpecError) as refusal:
        component.adopt_config({"pruned_heads": {"0": [1]}, "add_cross_attention": True})
    assert [problem.split()[0] for problem in refusal.value.problems] == [
        "pruned_heads",
        "add_cross_attention",
    ]
    assert component.adopt_config({"pruned_heads": {}, "add_cross_attention": False}) == {}
    with pytest.raises(ValidationError, match="quantization_config"):
        component.Config.model_validate(component.adopt_config({"quantization_config": {"bits": 4}}))


def test_a_config_of_both_halves_of_clip_is_refused() -> None:
    with pytest.raises(SpecError, match="model_type is 'clip': a text and an image encoder"):
        CLIPText.adopt_config({"model_type": "clip", "text_config": {}})
    with pytest.raises(SpecError, match="model_type is 'umt5': each of its layers"):
        T5Text.adopt_config({"model_type": "umt5"})


def test_all_problems_of_a_clip_config_come_at_once() -> None:
    with pytest.raises(SpecError) as refusal:
        CLIPTextConfig(
            architectures=("CLIPTextModelWithProjections",),
            model_type="bert",
            hidden_act="quick_gel",
            hidden_size=10,
            num_attention_heads=3,
            hidden_layer=13,
            text_embedding=False,
            max_length=78,
        )
    firsts = [problem.split()[0] for problem in refusal.value.problems]
    assert firsts == [
        "architectures",
        "model_type",
        "hidden_act",
        "hidden_size",
        "_hidden_layer",
        "neither",
        "_max_length",
    ]
    assert "'quick_gelu'" in refusal.value.problems[2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"architectures": ("CLIPTextModelWithProjection",), "projection_dim": None},
            "projection_dim is missing",
        ),
        ({"final_norm": True}, "_final_norm is set without a _hidden_layer"),
        ({"pooled": True, "eos_token_id": None}, "eos_token_id is null"),
        ({"hidden_layer": -14}, "hidden states run from -13 to 12"),
        ({"hidden_act": "prelu"}, "hidden_act is 'prelu'"),
    ],
    ids=str,
)
def test_a_clip_config_that_contradicts_itself_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        CLIPTextConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"architectures": ("T5EncoderMode",)}, "did you mean 'T5EncoderModel'"),
        ({"model_type": "mt5"}, "model_type is 'mt5'"),
        ({"feed_forward_proj": "gate-gelu"}, "did you mean 'gated-gelu'"),
        ({"dense_act_fn": "xielu"}, "dense_act_fn is 'xielu'"),
        ({"is_decoder": True}, "is_decoder is true"),
        ({"relative_attention_max_distance": 8}, "is not beyond the 8 distances"),
    ],
    ids=str,
)
def test_a_t5_config_that_cannot_be_honoured_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        T5TextConfig.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 0},
        {"eos_token_id": [1, 2]},
        {"max_length": 1},
        {"input": ""},
        {"layer_norm_epsilon": 1e-5},
    ],
    ids=str,
)
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CLIPTextConfig.model_validate(wrong)


@pytest.mark.parametrize("component", [CLIPText, T5Text])
def test_the_length_of_generated_texts_is_not_taken_for_that_of_prompts(component: Any) -> None:
    stored = component.adopt_config({"max_length": 20, "transformers_version": "4.22.0"})
    assert component.Config.model_validate(stored) == component.Config()
    stated = component.adopt_config({"max_length": 20})
    assert component.Config.model_validate(stated).max_length == 20


def test_own_keys_are_written_with_an_underscore_and_survive_a_round_trip() -> None:
    config = CLIPTextConfig(hidden_layer=-2, pooled=True, zeros_for_empty=True, max_length=20)
    document = config.model_dump(mode="json", by_alias=True)
    assert document["_hidden_layer"] == -2
    assert CLIPTextConfig.model_validate(document) == config
    assert all(field.description for field in CLIPTextConfig.model_fields.values())
