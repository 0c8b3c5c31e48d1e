"""From an empty folder to published things, and on a second clean environment to images made with them."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

from ldm_registry.authoring.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.plugins]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sharing.md"
THIRD_PARTY = sorted(path.parent for path in (ROOT / "tests" / "third_party").glob("*/pyproject.toml"))
FENCE = re.compile(r"^```(?P<language>\w*) ?(?P<name>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
MATCHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PRINTED = {"DIGEST": r"sha256:([0-9a-f]{64})", "COMMIT": r"small@([0-9a-f]{40})\}"}
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Machine:
    """An environment with a cache of its own, which sees the libraries of this one.

    Attributes:
        python: Its interpreter.
        site: Where pip installs.
        folder: Where commands run.
        environment: What they are given.
    """

    python: Path
    site: Path
    folder: Path
    environment: dict[str, str]

    def run(self, line: str, *, code: int = 0, **more: str) -> str:
        """The stdout of one command."""
        words = shlex.split(line)
        if words[0] == "cd":
            self.folder = self.folder / words[1]
            return ""
        if words == ["pip", "install", "-e", "."]:
            self.install(self.folder)
            return ""
        assert words[0] == "ldm", line
        done = subprocess.run(
            [self.python, "-m", "ldm_registry", *words[1:]],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, project: Path) -> None:
        """What `pip install` does, without a network; the project itself is left as it is."""
        copy = shutil.copytree(project, self.site.parent / f"copy-of-{project.name}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(self.site), str(copy)], check=True, capture_output=True)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Machine]:
    """A fresh one of a name."""
    pytest.importorskip("hatchling", reason="the build backend of the projects")

    def make(name: str) -> Machine:
        place = tmp_path / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        (site,) = place.glob("lib/python3*/site-packages")
        libraries = sysconfig.get_path("purelib")
        (site / "others.pth").write_text(f"import site; site.addsitedir({libraries!r})\n{ROOT}\n", "utf-8")
        work = place / "work"
        work.mkdir()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HOME": str(place / "hf"),
            "LDM_CACHE": str(place / "cache"),
        }
        return Machine(place / "bin" / "python", site, work, environment)

    return make


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("image-*.png")}


def test_the_page_leads_from_an_empty_folder_to_the_same_images_elsewhere(
    hub: LoopbackHub, machine: Callable[[str], Machine]
) -> None:
    first, second = machine("first"), machine("second")
    found: dict[str, str] = {}
    output = ""
    for block in FENCE.finditer(PAGE.read_text("utf-8")):
        body = block["body"]
        for word, value in found.items():
            body = body.replace(word, value)
        if block["language"] == "text":
            assert doctest.OutputChecker().check_output(body, output, MATCHING), (
                f"{output}\n-- is not --\n{body}"
            )
        elif block["language"] == "yaml":
            (second.folder / block["name"]).write_text(body, "utf-8")
        elif block["name"] == "offline":
            for line in body.splitlines():
                second.run(line, LDM_OFFLINE="1", HF_ENDPOINT=NOWHERE)
        else:
            output = "".join(
                {"first": first, "second": second}[block["name"]].run(line) for line in body.splitlines()
            )
            for word, pattern in PRINTED.items():
                for match in re.finditer(pattern, output):
                    found[word] = match[1]
    made = images(second.folder / "out")
    assert len(made) == 2
    assert made == images(second.folder / "again") == images(first.folder / "out")


def test_five_plugins_by_others_go_the_whole_way(
    hub: LoopbackHub, machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    first, second = machine("first"), machine("second")
    names = [read_manifest(folder).distribution for folder in THIRD_PARTY]
    assert len(names) == 5
    for folder, name in zip(THIRD_PARTY, names, strict=True):
        first.install(folder)
        pushed = first.run(f"ldm plugin push {shlex.quote(str(folder))} org/{name} --json")
        digest = json.loads(pushed)["code_digest"]
        address = f"hf://org/{name}@v0.1.0"
        assert second.run(f"ldm plugin install {address} --trust-code {digest}").startswith(name)
    first.folder = THIRD_PARTY[names.index("ldm-conv-mixer")]
    pushed = first.run("ldm push checkpoint org/emoji-conv-mixer --spec conv-mixer.yaml --json")
    commit = json.loads(pushed)["commit"]
    second.run("ldm plugin verify")
    listed = second.run("ldm list")
    assert all(name in listed for name in names)
    # All five in two specs, one of which takes its weights from the Hub.
    specs = {
        "mixed.yaml": "conditioners: {prompt: {use: hashed-trigrams}}\n"
        f"denoiser: {{use: conv-mixer, checkpoint: hf://org/emoji-conv-mixer@{commit}}}\n"
        "scheduler: {use: dpm-midpoint, config: {steps: 4}}\n"
        "decoder: {use: latent-preview}\n"
        "condition: {prompt: [a smiling face, a red apple]}\n",
        "blocks.yaml": "encoder: {use: block-dct}\n"
        "denoiser: {use: gaussian, config: {channels: 12}}\n"
        "scheduler: {use: dpm-midpoint, schedule: {name: cosine}, config: {steps: 4}}\n"
        "decoder: {use: block-dct}\ncondition: null\nguidance: null\n",
    }
    for name, text in specs.items():
        (second.folder / name).write_text(f"extends: emoji-kl-dit\n{text}", "utf-8")
        out = f"out-{Path(name).stem}"
        for command in ("check", "trace", "lock"):
            second.run(f"ldm {command} {name}")
        second.run(f"ldm run {name} -n 2 -o {out}")
        second.run(f"ldm run {name} -n 2 -o {out}-again", LDM_OFFLINE="1", HF_ENDPOINT=NOWHERE)
        assert len(images(second.folder / out)) == 2
        assert images(second.folder / out) == images(second.folder / f"{out}-again")
    for name in names:
        assert json.loads(second.run(f"ldm plugin test {name} --json"))["passed"]
        second.run(f"ldm plugin remove {name}")
    second.run("ldm check mixed.yaml", code=3)
