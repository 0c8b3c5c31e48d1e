"""Text encoders of any config equal transformers' own class loaded from the same folder."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from ldm_text import CLIPText, T5Text
from ldm_text.activations import ACTIVATIONS
from safetensors.torch import load_file
from torch import Tensor

TEXTS = ["a red kite over the sea", "", "Two small cats, on SNOW at night! " * 3, "ünder 7 $ 雪"]
END = "<|endoftext|>"
CASES = 120
PARTS = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


def clip_draw(index: int) -> dict[str, Any]:
    choose = random.Random(index)
    heads, layers = choose.choice([1, 2, 3]), choose.choice([1, 2, 3])
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * choose.choice([4, 5, 8]),
        "intermediate_size": choose.choice([7, 24]),
        "projection_dim": choose.choice([3, 12]),
        "num_hidden_layers": layers,
        "max_position_embeddings": choose.choice([9, 16, 20]),
        "hidden_act": ACTIVATIONS[index % len(ACTIVATIONS)],
        "layer_norm_eps": choose.choice([1e-5, 1e-3]),
        "attention_dropout": choose.choice([0.0, 0.3]),
        "legacy_end": choose.random() < 0.4,
        "projected": choose.random() < 0.5,
        "hidden_layer": choose.choice([None, None, *range(-layers - 1, layers + 1)]),
        "final_norm": choose.random() < 0.5,
        "unprefixed": choose.random() < 0.3,
        "pad": choose.choice([END, "!"]),
        "double": choose.random() < 0.5,
    }


DRAWS = [clip_draw(index) for index in range(CASES)]


def test_the_drawn_configs_differ_and_cover_every_option() -> None:
    assert len({repr(draw) for draw in DRAWS}) >= 100
    for name in ("legacy_end", "projected", "final_norm", "unprefixed", "pad", "double", "layer_norm_eps"):
        assert min(Counter(draw[name] for draw in DRAWS).values()) >= 10
        assert len({draw[name] for draw in DRAWS}) == 2
    assert {draw["hidden_act"] for draw in DRAWS} == set(ACTIVATIONS)
    assert {draw["hidden_layer"] for draw in DRAWS} >= {None, -3, -2, -1, 0, 1, 2}
    assert {draw["num_hidden_layers"] for draw in DRAWS} == {1, 2, 3}


@pytest.mark.parametrize("part", PARTS)
def test_clip_equals_transformers_on_generated_configs(
    part: int,
    tmp_path: Path,
    tiny: Any,
    load: Callable[..., Any],
    relative: Callable[[Tensor, Tensor], float],
) -> None:
    for index in range(part, CASES, len(PARTS)):
        _compare_clip(tiny, tmp_path / str(index), DRAWS[index] | {}, load, relative)


def _compare_clip(
    tiny: Any,
    folder: Path,
    draw: dict[str, Any],
    load: Callable[..., Any],
    relative: Callable[[Tensor, Tensor], float],
) -> None:
    said = dict(draw)
    length, layer = draw["max_position_embeddings"], draw.pop("hidden_layer")
    projected, legacy, unprefixed = (draw.pop(name) for name in ("projected", "legacy_end", "unprefixed"))
    final_norm, dtype = (
        draw.pop("final_norm") and layer is not None,
        (torch.float32, torch.float64)[draw.pop("double")],
    )
    tokenizer = tiny.clip_tokenizer(folder / "tokenizer", length, draw.pop("pad"))
    ends = {"eos_token_id": 2, "bos_token_id": 0} if legacy else {}
    encoder = tiny.clip_encoder(folder / "encoder", tokenizer, projected=projected, **draw, **ends)
    reference_class = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    reference = reference_class.from_pretrained(str(encoder), dtype=dtype).eval()
    if unprefixed and not projected:
        fresh = type(reference)(reference.config)
        fresh.load_state_dict(reference.state_dict())
        fresh.save_pretrained(encoder)
        assert "embeddings.token_embedding.weight" in load_file(encoder / "model.safetensors"), said
    ours = load(CLIPText, encoder, tokenizer, hidden_layer=layer, final_norm=final_norm, pooled=True).to(
        dtype
    )
    got = ours.encode({"prompt": TEXTS}, (64, 64))
    ids = transformers.CLIPTokenizer.from_pretrained(str(tokenizer))(
        TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = reference(ids, output_hidden_states=True)
        embedding = expected.last_hidden_state if layer is None else expected.hidden_states[layer]
        if final_norm:
            embedding = getattr(reference, "text_model", reference).final_layer_norm(embedding)
    pooled = expected.text_embeds if projected else expected.pooler_output
    assert relative(got["text_embedding"], embedding) <= TOLERANCE[dtype], said
    assert relative(got["pooled_text_embedding"], pooled) <= TOLERANCE[dtype], said
    assert set(got) == set(ours.outputs), said


def t5_draw(index: int) -> dict[str, Any]:
    choose = random.Random(index)
    return {
        "d_model": choose.choice([8, 12, 15]),
        "d_kv": choose.choice([3, 4, 8]),
        "d_ff": choose.choice([7, 24]),
        "num_layers": choose.choice([1, 2, 3]),
        "num_heads": choose.choice([1, 2, 3]),
        "relative_attention_num_buckets": choose.choice([4, 6, 8, 32]),
        "relative_attention_max_distance": choose.choice([10, 16, 128]),
        "layer_norm_epsilon": choose.choice([1e-6, 1e-3]),
        "feed_forward_proj": choose.choice(["", "gated-"]) + ACTIVATIONS[index % len(ACTIVATIONS)],
        "double": choose.random() < 0.5,
        "mask": choose.random() < 0.7,
    }


T5_DRAWS = [t5_draw(index) for index in range(CASES)]


def test_the_drawn_t5_configs_differ_and_cover_every_option() -> None:
    assert len({repr(draw) for draw in T5_DRAWS}) >= 100
    for name in ("double", "mask", "layer_norm_epsilon"):
        assert min(Counter(draw[name] for draw in T5_DRAWS).values()) >= 10
        assert len({draw[name] for draw in T5_DRAWS}) == 2
    words = {draw["feed_forward_proj"].removeprefix("gated-") for draw in T5_DRAWS}
    assert words == set(ACTIVATIONS)
    assert {"gated-gelu", "gelu", "relu", "gated-silu"} <= {draw["feed_forward_proj"] for draw in T5_DRAWS}


@pytest.mark.parametrize("part", PARTS)
def test_t5_equals_transformers_on_generated_configs(
    part: int,
    tmp_path: Path,
    tiny: Any,
    t5_tokens: Path,
    load: Callable[..., Any],
    relative: Callable[[Tensor, Tensor], float],
) -> None:
    tokenizer = transformers.T5Tokenizer.from_pretrained(str(t5_tokens))
    texts = [text.lower().strip() for text in TEXTS]
    for index in range(part, CASES, len(PARTS)):
        draw = dict(T5_DRAWS[index])
        dtype, mask = (torch.float32, torch.float64)[draw.pop("double")], draw.pop("mask")
        encoder = tiny.t5_encoder(tmp_path / str(index), seed=index, **draw)
        reference = transformers.T5EncoderModel.from_pretrained(str(encoder), dtype=dtype).eval()
        ours = load(T5Text, encoder, t5_tokens, max_length=30, mask=mask).to(dtype)
        got = ours.encode({"prompt": TEXTS}, (64, 64))
        made = tokenizer(texts, padding="max_length", max_length=30, truncation=True, return_tensors="pt")
        with torch.no_grad():
            expected = reference(made.input_ids, attention_mask=made.attention_mask if mask else None)
        assert relative(got["text_embedding"], expected.last_hidden_state) <= TOLERANCE[dtype], T5_DRAWS[
            index
        ]
        assert set(got) == set(ours.outputs)
        if mask:
            assert torch.equal(got["text_mask"], made.attention_mask.bool())
