"""A real environment, the real command, a real project: what a person does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from toy_project import tree

from ldm_registry.authoring.plugin_project import new_project
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Run:
    """Python of a fresh environment that sees this one's libraries, in a folder of its own; pip talks there."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python3*/site-packages")
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{root}\n")
    work = tmp_path / "work"
    work.mkdir()

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_QUIET": "0", **more}
        command = [place / "bin" / "python", *words]
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    return call


def test_a_project_goes_from_the_hub_into_an_environment_and_out_again(
    hub: LoopbackHub, run: Run, tmp_path: Path
) -> None:
    name = "hub-traveller"
    project = new_project(name, [Kind.SCHEDULER], tmp_path / "project", registry=Registry())
    repository = f"org/{project.distribution}"
    commit = hub.publish(repository, tree(project.folder), tag="v0.1.0")
    ldm = ("-m", "ldm_registry")
    address = f"hf://{repository}@v0.1.0"

    refused = run(*ldm, "plugin", "install", address)
    assert refused.returncode == 4, refused.stderr
    assert commit in refused.stderr
    assert run(*ldm, "show", f"scheduler/{name}").returncode == 3
    looked = run(*ldm, "plugin", "install", address, "--dry-run", "--json")
    digest = json.loads(looked.stdout)["digest"]
    done = run(*ldm, "plugin", "install", address, "--trust-code", digest)
    assert done.returncode == 0, done.stderr

    assert name in run(*ldm, "list", "scheduler").stdout
    shown = run(*ldm, "show", f"scheduler/{name}")
    assert shown.returncode == 0, shown.stderr
    tested = run(*ldm, "plugin", "test", f"scheduler/{name}")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert run(*ldm, "plugin", "verify").returncode == 0

    assert project.distribution in run("-m", "pip", "list", "--disable-pip-version-check").stdout
    pip = run("-m", "pip", "uninstall", "-y", "--disable-pip-version-check", project.distribution)
    assert "installed by ldm-registry" in pip.stderr
    assert run(*ldm, "plugin", "verify").returncode == 0, "pip leaves it alone"

    (module,) = (tmp_path / "environment").rglob(f"{project.module}/__init__.py")
    content = module.read_bytes()
    module.write_bytes(content.replace(b'"""', b"'''"))
    for words in (("show", f"scheduler/{name}"), ("plugin", "verify")):
        assert run(*ldm, *words).returncode == 4
    module.write_bytes(content)
    assert run(*ldm, "show", f"scheduler/{name}").returncode == 0

    assert run(*ldm, "plugin", "remove", project.distribution).returncode == 0
    assert run(*ldm, "show", f"scheduler/{name}").returncode == 3
    assert not [*(tmp_path / "environment").rglob("ldm_hub*")]
