"""Tiny text encoders of transformers with tokenizers that were made here, of letters."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from tiny_pipelines import seeded

LETTERS = string.ascii_lowercase + string.digits + ".,'"
CLIP_TOKENS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
MAX_LENGTH = 16


def clip_tokenizer(folder: Path) -> Any:
    """Every letter is a token; there are no merges."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(CLIP_TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_LENGTH
    )
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def clip(width: int = 16, *, projected: bool = False, seed: int = 0) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(CLIP_TOKENS),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=len(CLIP_TOKENS) - 2,
        eos_token_id=len(CLIP_TOKENS) - 1,
        pad_token_id=len(CLIP_TOKENS) - 1,
    )
    name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    return seeded(getattr(transformers, name), seed, config=config)


def t5_tokenizer(folder: Path) -> Any:
    """A unigram model of letters, as sentencepiece would write it."""
    import tokenizers
    from transformers import T5TokenizerFast

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([*special, *pieces], unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    tokenizer = T5TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0)
    tokenizer.save_pretrained(folder)
    return T5TokenizerFast.from_pretrained(folder)


def t5(width: int = 16) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=64,
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return seeded(transformers.T5EncoderModel, config=config)
