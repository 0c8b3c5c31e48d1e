"""Tiny tokenizers and text encoders in the folders that transformers reads, made from nothing but a seed.

Tokenizers know every byte, a few merged words besides, and end texts as their big models do. Encoders have random
weights everywhere, those that start at zero or one included, and the tensor names of published checkpoints.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from ldm_text import CLIPText, T5Text
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

WORDS = ("a", "red", "kite", "over", "the", "sea", "two", "small", "cats", "on", "snow", "at", "night")
SENTENCES = [
    f"{first} {second} {third}, {fourth}"
    for first in WORDS
    for second in WORDS[3:]
    for third in WORDS[5:9]
    for fourth in WORDS[9:]
]
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(folder: Path, length: int = 16, pad: str = END) -> Path:
    """A byte-level BPE with merges for the first letters of `WORDS`, as `vocab.json` and `merges.txt`.

    Args:
        folder: Made when it is missing.
        length: Tokens of the longest text.
        pad: Token that fills up; SDXL's second tokenizer has "!".
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    merges = list(dict.fromkeys(m for word in WORDS for m in _merges(word)))
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    specials = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    settings = {
        **specials,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    return folder


def clip_vocabulary(folder: Path) -> dict[str, int]:
    """What is in a tokenizer's `vocab.json`."""
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    return vocabulary


def t5_tokenizer(folder: Path) -> Path:
    """A Unigram model trained on `SENTENCES`, as `spiece.model`; `<pad>` is 0, `</s>` 1 and `<unk>` 2."""
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    specials = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {**specials, "tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 4}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    return folder


def clip_encoder(
    folder: Path, tokenizer: Path, *, projected: bool = False, seed: int = 0, **config: Any
) -> Path:
    """A CLIP text encoder as published checkpoints are: prefixed names, and `position_ids` among the tensors.

    Args:
        folder: Made when it is missing.
        tokenizer: Of its texts, for the ids of special tokens.
        projected: Whether it is a `CLIPTextModelWithProjection`.
        seed: Of its weights.
        config: In place of tiny sizes.
    """
    vocabulary = clip_vocabulary(tokenizer)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 24, "projection_dim": 12}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 16}
    ends = {"bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END]}
    keys = CLIPTextConfig(**(sizes | ends | config))
    network = (CLIPTextModelWithProjection if projected else CLIPTextModel)(keys)
    tensors = {
        name if name.startswith("text_") else f"text_model.{name}": tensor
        for name, tensor in _randomised(network, seed).items()
    }
    tensors["text_model.embeddings.position_ids"] = torch.arange(keys.max_position_embeddings)[None]
    return _saved(folder, type(network).__name__, keys.to_dict(), tensors)


def t5_encoder(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """A T5 encoder as published checkpoints are, gated as in version 1.1; arguments as for `clip_encoder`."""
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    keys = T5Config(**(sizes | {"feed_forward_proj": "gated-gelu"} | config))
    values = keys.to_dict()
    tensors = _randomised(T5EncoderModel(keys), seed)
    del tensors["encoder.embed_tokens.weight"]
    return _saved(folder, "T5EncoderModel", values, tensors)


def _merges(word: str) -> list[tuple[str, str]]:
    parts = [*word[:-1], f"{word[-1]}</w>"]
    pairs = []
    while len(parts) > 1:
        pairs.append((parts[0], parts[1]))
        parts[:2] = [parts[0] + parts[1]]
    return pairs


def _randomised(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in network.state_dict().items():
        # Large enough for attention to be far from uniform.
        std = 0.3 if tensor.ndim == 1 else 1.5 * tensor.shape[-1] ** -0.5
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = offset + std * torch.randn(tensor.shape, generator=generator)
    return tensors


def _saved(folder: Path, architecture: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {**config, "architectures": [architecture], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


TextEncoder = CLIPText | T5Text


@pytest.fixture
def tiny() -> Any:
    """The functions of this module; plugins' test modules cannot import one another."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def clip_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_tokenizer(tmp_path_factory.mktemp("clip") / "tokenizer")


@pytest.fixture(scope="session")
def t5_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return t5_tokenizer(tmp_path_factory.mktemp("t5") / "tokenizer")


def loaded(component: type[TextEncoder], folder: Path, tokenizer: Path, **ours: Any) -> Any:
    """A text encoder on the weights of a folder, built without memory and strict about every key and tensor.

    Args:
        component: `CLIPText` or `T5Text`.
        folder: The checkpoint.
        tokenizer: The tokenizer's folder.
        ours: Keys that transformers does not know, without their underscore.
    """
    stored = json.loads((folder / "config.json").read_text())
    adopted = component.adopt_config({key: value for key, value in stored.items() if key[0] != "_"})
    with torch.device("meta"):
        built: Any = component(component.Config.model_validate({**adopted, **ours}), tokenizer)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if any(re.fullmatch(pattern, name) for pattern in component.ignored_tensors):
            continue
        if not name.startswith(component.sibling_prefixes or ("\0",)):
            for pattern, replacement in component.renamed_tensors:
                name = re.sub(pattern, replacement, name)
            tensors[name] = tensor
    built.load_state_dict(tensors, strict=True, assign=True)
    return built.eval().requires_grad_(False)


@pytest.fixture
def load() -> Callable[..., Any]:
    return loaded


@pytest.fixture
def relative() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """max|a - b| / max|b|, after a check that the two have one shape and dtype."""

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        return float((a - b).abs().max() / b.abs().max())

    return error
