"""Tokenizers come from a folder alone, and what cannot be honest about its tokens is refused."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from ldm_text import CLIPText, CLIPTextConfig, T5Text, T5TextConfig

from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError, SpecError

SMALL_CLIP = CLIPTextConfig(
    vocab_size=600,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=16,
    bos_token_id=542,
    eos_token_id=543,
)
SMALL_T5 = T5TextConfig(vocab_size=64, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1, max_length=12)


def build(component: type[Any], config: Any, tokenizer: Path | None) -> Any:
    with torch.random.fork_rng():
        return component(config, tokenizer).eval().requires_grad_(False)


@pytest.fixture
def clip_copy(clip_tokens: Path, tmp_path: Path) -> Path:
    """A tokenizer folder that a test may spoil."""
    return Path(shutil.copytree(clip_tokens, tmp_path / "tokenizer"))


def change_settings(folder: Path, **settings: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_nothing_is_asked_of_the_network(
    clip_tokens: Path, t5_tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    build(CLIPText, SMALL_CLIP, clip_tokens).encode({"prompt": ["a red kite"]}, (8, 8))
    build(T5Text, SMALL_T5, t5_tokens).encode({"prompt": ["a red kite"]}, (8, 8))


def test_importing_the_plugin_imports_no_transformers() -> None:
    code = "import sys, ldm_text; print('transformers' in sys.modules, 'tokenizers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("component", "config"), [(CLIPText, SMALL_CLIP), (T5Text, SMALL_T5)])
def test_a_missing_tokenizer_says_what_to_name(component: Any, config: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no tokenizer") as unnamed:
        build(component, config, None)
    assert "`tokenizer: DIR`" in str(unnamed.value)
    with pytest.raises(NotFoundError, match="no tokenizer folder"):
        build(component, config, tmp_path / "absent")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NotFoundError, match=r"it holds notes\.txt\n.*expected tokenizer\.json, or "):
        build(component, config, tmp_path)


def test_code_of_its_own_is_refused(clip_copy: Path) -> None:
    change_settings(clip_copy, auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]})
    (clip_copy / "evil.py").write_text("raise SystemExit")
    with pytest.raises(IntegrityError, match=r"auto_map is \{'AutoTokenizer'"):
        build(CLIPText, SMALL_CLIP, clip_copy)


def test_a_tokenizer_of_another_class_is_refused(clip_copy: Path) -> None:
    change_settings(clip_copy, tokenizer_class="T5Tokenizer")
    with pytest.raises(CheckpointError, match="is for 'T5Tokenizer', expected CLIPTokenizer"):
        build(CLIPText, SMALL_CLIP, clip_copy)
    change_settings(clip_copy, tokenizer_class="CLIPTokenizerFast")
    build(CLIPText, SMALL_CLIP, clip_copy)


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"a": "b"}'])
def test_broken_files_are_refused_or_do_no_harm(name: str, content: str, clip_copy: Path) -> None:
    (clip_copy / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", '{"a": "b"}'):
        # Without settings the text may be as long as the network allows.
        assert build(CLIPText, SMALL_CLIP, clip_copy).outputs["text_embedding"].shape == (16, 8)
        return
    with pytest.raises(CheckpointError):
        build(CLIPText, SMALL_CLIP, clip_copy)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused_before_the_network_runs(clip_tokens: Path) -> None:
    small = build(CLIPText, SMALL_CLIP.model_copy(update={"vocab_size": 543}), clip_tokens)
    with pytest.raises(CheckpointError, match=r"gives token 543; the encoder knows tokens 0 to 542"):
        small.encode({"prompt": ["a"]}, (8, 8))


@pytest.mark.parametrize(
    ("component", "config", "theirs"),
    [(CLIPText, SMALL_CLIP, "CLIPTokenizer"), (T5Text, SMALL_T5, "T5Tokenizer")],
)
def test_the_single_file_gives_the_same_tokens(
    component: Any, config: Any, theirs: str, clip_tokens: Path, t5_tokens: Path, tmp_path: Path
) -> None:
    folder = clip_tokens if component is CLIPText else t5_tokens
    getattr(transformers, theirs).from_pretrained(str(folder)).save_pretrained(tmp_path)
    assert not any((tmp_path / name).exists() for name in ("vocab.json", "spiece.model"))
    texts = ["a red kite", "", "Ünder  7 snows" * 9]
    one, other = (build(component, config, path).tokens(texts) for path in (folder, tmp_path))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_what_does_not_fit_can_be_asked_for(clip_tokens: Path, t5_tokens: Path) -> None:
    clip = build(CLIPText, SMALL_CLIP, clip_tokens)
    assert clip.cut({"prompt": ["a red kite", "a " * 14, "a " * 14 + "red kite", ""]}) == [
        "",
        "",
        "red kite",
        "",
    ]
    t5 = build(T5Text, SMALL_T5, t5_tokens)
    assert t5.cut({"prompt": ["a", " A" * 11, "A " * 11 + " Over the Sea"]}) == ["", "", "over the sea"]


def test_it_reads_the_entry_that_it_is_told_and_pads_to_the_length_that_it_is_told(clip_tokens: Path) -> None:
    config = SMALL_CLIP.model_copy(update={"input": "style", "max_length": 9})
    part = build(CLIPText, config, clip_tokens)
    assert part.inputs == ("style",)
    given = part.encode({"style": ["a red kite"], "prompt": ["cats"]}, (8, 8))
    assert given["text_embedding"].shape == (1, 9, 8)
    assert part.outputs["text_embedding"].shape == (9, 8)


def test_only_the_empty_text_becomes_zeros(clip_tokens: Path) -> None:
    config = SMALL_CLIP.model_copy(update={"zeros_for_empty": True, "pooled": True})
    part, plain = build(CLIPText, config, clip_tokens), build(CLIPText, SMALL_CLIP, clip_tokens)
    plain.load_state_dict(part.state_dict())
    given = part.encode({"prompt": ["a", "", " "]}, (8, 8))
    assert [bool(row.any()) for row in given["text_embedding"]] == [True, False, True]
    assert [bool(row.any()) for row in given["pooled_text_embedding"]] == [True, False, True]
    encoded = plain.encode({"prompt": [""]}, (8, 8))["text_embedding"]
    assert torch.equal(given["text_embedding"][2:], encoded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_t5_in_half_precision_is_that_of_transformers(
    dtype: torch.dtype, tiny: Any, t5_tokens: Path, tmp_path: Path, load: Callable[..., Any]
) -> None:
    folder = tiny.t5_encoder(tmp_path)
    reference = transformers.T5EncoderModel.from_pretrained(str(folder), dtype=dtype).eval()
    ours = load(T5Text, folder, t5_tokens, max_length=12).to(dtype=dtype).to("cpu")
    ids, mask = ours.tokens(["a red kite over the sea"])
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask.long()).last_hidden_state
    got = ours.encode({"prompt": ["a red kite over the sea"]}, (8, 8))["text_embedding"]
    assert got.dtype == dtype
    assert torch.equal(got, expected)
    wide = {name for name, tensor in ours.state_dict().items() if tensor.dtype == torch.float32}
    assert all(name.endswith(".wo.weight") for name in wide)
    assert len(wide) == (2 if dtype == torch.float16 else 0)
    assert all(tensor.dtype == torch.float64 for tensor in ours.double().state_dict().values())


def test_a_checkpoint_of_all_of_t5_gives_its_encoder(
    tiny: Any, t5_tokens: Path, tmp_path: Path, load: Callable[..., Any]
) -> None:
    folder = tiny.t5_encoder(tmp_path / "encoder")
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config.from_pretrained(str(folder)))
    whole.save_pretrained(tmp_path / "whole")
    ours = load(T5Text, tmp_path / "whole", t5_tokens)
    assert torch.equal(ours.shared.weight, whole.shared.weight)
    assert set(ours.state_dict()) == set(load(T5Text, folder, t5_tokens).state_dict())
