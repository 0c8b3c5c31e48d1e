"""A single file through the command line: converted beside the spec, and drawn as diffusers draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ldm_registry.__main__ import main
from ldm_registry.assembly import assemble
from ldm_registry.spec import load_spec

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines
import tiny_text

pytestmark = [
    pytest.mark.plugins,
    # diffusers and transformers use each other in ways that newer releases of either deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

PROMPTS = ["a red kite", "two dogs"]
TOKENIZERS = {"sd1": ["tokenizer"], "sd2": ["tokenizer"], "sdxl": ["tokenizer", "tokenizer_2"]}
NEEDED = {"sd1": [], "sd2": ["--prediction", "v"], "sdxl": []}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_single_file_draws_what_diffusers_draws_from_its_parts(
    original: Any, tmp_path: Path, family: str
) -> None:
    save_file(original.randomised(original.files[family]()), tmp_path / "model.safetensors")
    tokenizers = {name: tiny_text.clip_tokenizer(tmp_path / name) for name in TOKENIZERS[family]}
    parts = [word for name in tokenizers for word in ("--part", f"{name}={tmp_path / name}")]
    spec = tmp_path / "out" / "mine.yaml"
    words = ["import", tmp_path / "model.safetensors", "-o", spec, "--size", "32", "--steps", "3"]
    assert main([str(word) for word in (*words, *parts, *NEEDED[family])]) == 0
    pipe = tiny_pipelines.opened(tmp_path / "out" / "mine.checkpoints", **tokenizers)
    generators = [torch.Generator().manual_seed(index) for index in range(2)]
    images = pipe(
        PROMPTS, num_inference_steps=3, height=32, width=32, generator=generators, output_type="np"
    ).images
    drawn = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    mine = assemble(load_spec(spec)).sample(2, seed=0, condition={"prompt": PROMPTS})
    assert mine.std() > 0.01
    torch.testing.assert_close(mine, drawn, rtol=0, atol=1e-4)


def test_what_the_file_lacks_is_asked_for_and_nothing_stays(
    original: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(original.randomised(original.files["sd1"]()), tmp_path / "model.safetensors")
    assert main(["import", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "mine.yaml")]) == 2
    assert "--part tokenizer=DIR" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]
