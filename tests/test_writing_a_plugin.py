"""The guide, followed to the letter in an empty folder."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldm_registry.vocabulary import Kind

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-plugin.md"
FENCE = re.compile(r"^```(?P<language>\w*) ?(?P<name>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
MATCHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CHECK_ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kinds>[^|]+) \| (?P<about>.+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, and whether nothing but blank lines stands between it and the block before."""

    language: str
    name: str
    body: str
    follows: bool


def blocks() -> list[Block]:
    text = PAGE.read_text("utf-8")
    found, end = [], 0
    for match in FENCE.finditer(text):
        follows = bool(found) and not text[end : match.start()].strip()
        found.append(Block(match["language"], match["name"], match["body"], follows))
        end = match.end()
    return found


def run(
    line: str, folder: Path, site: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """One command of the page; it installs into a folder of its own, without a network."""
    words = shlex.split(line)
    if words == ["pip", "install", "-e", "."]:
        words = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), "."]
    module = {"ldm": "ldm_registry", "pip": "pip", "pytest": "pytest"}[words[0]]
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", module, *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def require_match(got: str, expected: str) -> None:
    assert doctest.OutputChecker().check_output(expected, got, MATCHING), f"{got}\n-- is not --\n{expected}"


@pytest.mark.slow
@pytest.mark.plugins
def test_following_the_page_from_an_empty_folder_ends_with_images(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the build backend that the page uses")
    folder, site = tmp_path, tmp_path / "site"
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    written, output = set(), ""
    for block in blocks():
        if block.name:
            assert (folder / block.name).is_file(), f"{block.name} is no file of the project"
            (folder / block.name).write_text(block.body, "utf-8")
            written.add(block.name)
        elif block.language == "bash":
            output = ""
            for line in block.body.splitlines():
                if line.startswith("cd "):
                    folder = folder / line.removeprefix("cd ")
                    continue
                done = run(line, folder, site, environment)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
                output += done.stdout
        elif block.language == "text" and block.follows:
            require_match(output, block.body)
    assert written == {"ldm_haar/codec.py", "tests/test_haar_codec.py", "haar.yaml"}
    assert sorted(file.name for file in (folder / "out").glob("image-*.png")) == [
        f"image-{index:05}.png" for index in range(4)
    ]

    wrong = (folder / "haar.yaml").read_text("utf-8").replace("channels: 12", "channels: 4")
    (folder / "haar.yaml").write_text(wrong, "utf-8")
    done = run("ldm check haar.yaml", folder, site, environment)
    assert done.returncode == 1
    (refusal,) = (block for block in blocks() if block.body.startswith("ContractError"))
    require_match(done.stderr, refusal.body)


def test_the_page_lists_every_check_of_the_suite() -> None:
    from ldm_registry.testing import check_names

    expected: dict[str, tuple[str, set[str]]] = {}
    for kind in Kind:
        for name, about in check_names(kind).items():
            expected.setdefault(name, (about.rstrip("."), set()))[1].add(str(kind))
    rows = {
        match["name"]: (
            match["about"],
            {str(kind) for kind in Kind}
            if match["kinds"] == "every kind"
            else set(match["kinds"].split(", ")),
        )
        for match in CHECK_ROW.finditer(PAGE.read_text("utf-8"))
    }
    assert rows == expected
