"""The page about the Hub: its commands are run in order, and print what it shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub

from ldm_registry.spec import bundled_dir

pytestmark = [pytest.mark.plugins]
PAGE = Path(__file__).parents[2] / "docs" / "hub.md"
BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
CARD = b"---\nlicense: apache-2.0\ntags: [ldm-component, ldm-encoder, ldm-decoder, ldm-latent-4ch-f8]\n---\n"


@pytest.fixture
def project(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `emoji.yaml`, and on the Hub the codec that it names, under the commit that the page shows."""
    (commit,) = set(re.findall(r"hf://lab/emoji-kl-vae@([0-9a-f]{40})", PAGE.read_text("utf-8")))
    parts = bundled_dir() / "checkpoints"
    files = {path.name: path.read_bytes() for path in (parts / "emoji-kl-vae").iterdir()}
    made = hub.publish("lab/emoji-kl-vae", {**files, "README.md": CARD}, tag="v1.0.0")
    repository = hub.repositories["lab/emoji-kl-vae"]
    repository.commits[commit] = replace(repository.commits[made], oid=commit)
    repository.branches["main"] = repository.tags["v1.0.0"] = commit
    text = (bundled_dir() / "emoji-kl-dit.yaml").read_text("utf-8")
    text = text.replace("checkpoints/emoji-kl-vae", f"hf://lab/emoji-kl-vae@{commit}")
    text = text.replace("checkpoints/", f"{parts}/").replace("data/", f"{bundled_dir() / 'data'}/")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "emoji.yaml").write_text(text, "utf-8")
    monkeypatch.chdir(folder)
    return folder


def test_the_commands_of_the_page_print_what_it_shows(project: Path, ldm: Callable[..., Any]) -> None:
    printed = ""
    shown = 0
    for match in BLOCK.finditer(PAGE.read_text("utf-8")):
        if match["info"] == "bash hub":
            printed = ""
            for line in match["body"].splitlines():
                ended = ldm(*shlex.split(line)[1:])
                assert ended.code == 0, ended.err
                printed += ended.out.replace(f"{project}/", "")
        elif match["info"] == "text hub":
            assert match["body"] == printed
            shown += 1
    assert shown >= 3
    assert (project / "images" / "run.json").is_file()
