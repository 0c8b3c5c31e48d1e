"""The conformance suite on `clip-text` and `t5-text`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ldm_text import CLIPText, CLIPTextConfig, T5Text, T5TextConfig

from ldm_registry.testing import Status, check_component, check_names
from ldm_registry.vocabulary import Kind

CLIP = {
    "vocab_size": 600,
    "hidden_size": 12,
    "intermediate_size": 20,
    "projection_dim": 7,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 542,
    "eos_token_id": 543,
}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architectures": ("CLIPTextModelWithProjection",), "hidden_layer": -2, "pooled": True},
        {"text_embedding": False, "pooled": True, "use_attention_mask": True, "zeros_for_empty": True},
    ],
    ids=lambda config: ",".join(config),
)
def test_clip_conforms(config: dict[str, Any], clip_tokens: Path) -> None:
    report = check_component(CLIPText, CLIPTextConfig.model_validate(CLIP | config), tokenizer=clip_tokens)
    report.raise_if_failed()
    assert {result.name for result in report.results} == set(check_names(Kind.CONDITIONER))
    assert {result.status for result in report.results} == {Status.PASSED}


@pytest.mark.parametrize("config", [{}, {"mask": False, "lower_case": False}], ids=lambda c: ",".join(c))
def test_t5_conforms(config: dict[str, Any], t5_tokens: Path) -> None:
    sizes = {"vocab_size": 64, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 2}
    small = T5TextConfig.model_validate(sizes | {"max_length": 20} | config)
    report = check_component(T5Text, small, tokenizer=t5_tokens)
    report.raise_if_failed()
    assert {result.status for result in report.results} == {Status.PASSED}
