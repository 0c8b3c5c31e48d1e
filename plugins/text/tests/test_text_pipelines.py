"""Embeddings equal those that the pipelines of diffusers make from the same folders and prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from diffusers import (
    DDIMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from ldm_text import CLIPText, T5Text
from torch import Tensor

PROMPTS = ["a Red kite over the sea", "two small cats, on snow at night! " * 9]
NEGATIVES = ["blurry", "an ugly 7-legged cat"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
SIZE = (64, 64)
both_dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])
Relative = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


def encoded(part: Any, texts: list[str]) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = part.encode({"prompt": texts}, SIZE)
    return outputs


@both_dtypes
@pytest.mark.parametrize("masked", [False, True])
def test_stable_diffusion(
    dtype: torch.dtype,
    masked: bool,
    tiny: Any,
    folders: Path,
    clip_tokens: Path,
    load: Callable[..., Any],
    relative: Relative,
) -> None:
    folder = tiny.clip_encoder(folders / f"sd-{masked}", clip_tokens, use_attention_mask=masked)
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=transformers.CLIPTextModel.from_pretrained(str(folder), dtype=dtype),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(clip_tokens)),
        unet=None,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    ours = load(CLIPText, folder, clip_tokens).to(dtype)
    for negative in (None, NEGATIVES):
        with torch.no_grad():
            positive_embeds, negative_embeds = pipeline.encode_prompt(PROMPTS, "cpu", 1, True, negative)
        got = encoded(ours, PROMPTS)["text_embedding"], encoded(ours, negative or ["", ""])["text_embedding"]
        assert relative(got[0], positive_embeds) <= TOLERANCE[dtype]
        assert relative(got[1], negative_embeds) <= TOLERANCE[dtype]


def xl(tiny: Any, folder: Path, dtype: torch.dtype, *, zeros: bool) -> StableDiffusionXLPipeline:
    """SDXL's text half: two encoders of unlike sizes, the second projected and its tokenizer padding with "!"."""
    for name, pad in (("tokenizer", tiny.END), ("tokenizer_2", "!")):
        tiny.clip_tokenizer(folder / name, pad=pad)
    tiny.clip_encoder(folder / "one", folder / "tokenizer", hidden_size=8, seed=1)
    tiny.clip_encoder(folder / "two", folder / "tokenizer_2", hidden_size=20, projected=True, seed=2)
    projected = transformers.CLIPTextModelWithProjection
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=transformers.CLIPTextModel.from_pretrained(str(folder / "one"), dtype=dtype),
        text_encoder_2=projected.from_pretrained(str(folder / "two"), dtype=dtype),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer_2")),
        unet=None,
        scheduler=DDIMScheduler(),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def joined(parts: tuple[Any, Any], texts: list[str]) -> tuple[Tensor, Tensor]:
    one, two = (encoded(part, texts) for part in parts)
    embedding = torch.cat([one["text_embedding"], two["text_embedding"]], dim=-1)
    return embedding, two["pooled_text_embedding"]


@both_dtypes
@pytest.mark.parametrize("zeros", [False, True])
def test_stable_diffusion_xl(
    dtype: torch.dtype, zeros: bool, tiny: Any, tmp_path: Path, load: Callable[..., Any], relative: Relative
) -> None:
    pipeline = xl(tiny, tmp_path, dtype, zeros=zeros)
    ours = {"hidden_layer": -2, "zeros_for_empty": zeros}
    parts = (
        load(CLIPText, tmp_path / "one", tmp_path / "tokenizer", **ours).to(dtype),
        load(CLIPText, tmp_path / "two", tmp_path / "tokenizer_2", **ours, pooled=True).to(dtype),
    )
    for negative in (None, NEGATIVES, ["", ""]):
        with torch.no_grad():
            embeds, without, pooled, pooled_without = pipeline.encode_prompt(
                PROMPTS, device="cpu", negative_prompt=negative
            )
        # diffusers tells a missing negative prompt from an empty one; for us that is one of a single blank.
        said = [""] * 2 if negative is None else [text or " " for text in negative]
        for got, expected in zip(joined(parts, PROMPTS), (embeds, pooled), strict=True):
            assert relative(got, expected) <= TOLERANCE[dtype]
        for got, expected in zip(joined(parts, said), (without, pooled_without), strict=True):
            if zeros and negative is None:
                assert torch.equal(got, expected)
                assert not bool(got.any())
            else:
                assert relative(got, expected) <= TOLERANCE[dtype]


@both_dtypes
@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_a_hidden_layer_of_the_prompt(
    dtype: torch.dtype, skip: int, tiny: Any, tmp_path: Path, load: Callable[..., Any], relative: Relative
) -> None:
    pipeline = xl(tiny, tmp_path, dtype, zeros=True)
    parts = tuple(
        load(CLIPText, tmp_path / name, tmp_path / tokens, hidden_layer=-(skip + 2), pooled=True).to(dtype)
        for name, tokens in (("one", "tokenizer"), ("two", "tokenizer_2"))
    )
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", clip_skip=skip)
    for got, expected in zip(joined((parts[0], parts[1]), PROMPTS), (embeds, pooled), strict=True):
        assert relative(got, expected) <= TOLERANCE[dtype]


@both_dtypes
@pytest.mark.parametrize(
    ("pipeline_class", "length"), [(PixArtAlphaPipeline, 120), (PixArtSigmaPipeline, 300)]
)
@pytest.mark.parametrize("projection", ["gated-gelu", "relu"])
def test_pixart(
    dtype: torch.dtype,
    pipeline_class: type[Any],
    length: int,
    projection: str,
    tiny: Any,
    folders: Path,
    t5_tokens: Path,
    load: Callable[..., Any],
    relative: Relative,
) -> None:
    folder = tiny.t5_encoder(folders / projection, feed_forward_proj=projection)
    pipeline = pipeline_class(
        tokenizer=transformers.T5Tokenizer.from_pretrained(str(t5_tokens)),
        text_encoder=transformers.T5EncoderModel.from_pretrained(str(folder), dtype=dtype),
        vae=None,
        transformer=None,
        scheduler=DDIMScheduler(),
    )
    ours = load(T5Text, folder, t5_tokens, max_length=length).to(dtype)
    prompts = [f"  {PROMPTS[0]} ", PROMPTS[1] * 3]
    for negative in ("", "blurry Snow"):
        with torch.no_grad():
            embeds, mask, without, mask_without = pipeline.encode_prompt(
                prompts, device="cpu", negative_prompt=negative, max_sequence_length=length
            )
        for texts, embedding, attended in ((prompts, embeds, mask), ([negative] * 2, without, mask_without)):
            got = encoded(ours, texts)
            assert relative(got["text_embedding"], embedding) <= TOLERANCE[dtype]
            assert torch.equal(got["text_mask"], attended.bool())


def test_clip_skip_of_stable_diffusion_goes_through_the_final_norm(
    tiny: Any, tmp_path: Path, clip_tokens: Path, load: Callable[..., Any], relative: Relative
) -> None:
    folder = tiny.clip_encoder(tmp_path, clip_tokens)
    reference = transformers.CLIPTextModel.from_pretrained(str(folder), dtype=torch.float64)
    # diffusers 0.42 looks for the final norm where transformers 4 has it.
    reference.text_model = SimpleNamespace(final_layer_norm=reference.final_layer_norm)
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=reference,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(clip_tokens)),
        unet=None,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    ours = load(CLIPText, folder, clip_tokens, hidden_layer=-2, final_norm=True).double()
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False, clip_skip=1)
    assert relative(encoded(ours, PROMPTS)["text_embedding"], expected) <= 1e-10
