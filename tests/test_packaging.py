from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
needs_hatchling = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


def build(folder: Path, target: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


def tracked_copy(folder: Path, to: Path) -> Path:
    """A folder without what version control ignores, so that a build can be watched from a clean start."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "*-train.tar", "runs", "out", "dist")
    return Path(shutil.copytree(folder, to, ignore=ignored))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tracked_copy(ROOT, tmp_path_factory.mktemp("tree") / "tree")
    training_images = folder / "specs" / "data" / "any-train.tar"
    training_images.parent.mkdir(exist_ok=True)
    training_images.write_bytes(b"too large for a wheel")
    return zipfile.ZipFile(build(folder, "wheel", tmp_path_factory.mktemp("wheel")))


@needs_hatchling
def test_the_wheel_holds_every_module_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ldm_registry").rglob("*.py")}
    assert modules | {"ldm_registry/py.typed"} <= set(wheel.namelist())


@needs_hatchling
def test_the_wheel_holds_the_bundled_specs_with_checkpoints_and_validation_images(
    wheel: zipfile.ZipFile,
) -> None:
    ours = [path for path in (ROOT / "specs").rglob("*") if path.is_file() and not path.match("*-train.tar")]
    ours = [path for path in ours if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    expected = {f"ldm_registry/{path.relative_to(ROOT).as_posix()}" for path in ours}
    assert any(name.endswith(".yaml") for name in expected)
    assert expected <= set(wheel.namelist())


@needs_hatchling
def test_the_wheel_holds_no_training_images_tests_or_plugins(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert not [name for name in names if name.endswith("-train.tar")]
    assert {name.split("/")[0] for name in names} == {"ldm_registry", "ldm_registry-0.1.0.dist-info"}


@needs_hatchling
def test_a_wheel_finds_its_own_specs(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "installed")
    code = "from ldm_registry.spec import bundled_specs, load_spec; print([load_spec(n).seed for n in bundled_specs()])"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("0") == len(list((ROOT / "specs").glob("*.yaml")))


@needs_hatchling
def test_the_source_distribution_holds_what_the_wheel_is_built_from(tmp_path: Path) -> None:
    built = build(tracked_copy(ROOT, tmp_path / "tree"), "sdist", tmp_path / "out")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "ldm_registry/py.typed", "tests/conftest.py"} <= names
    assert not [name for name in names if name.endswith("-train.tar")]


def test_the_version_is_said_once_and_the_same() -> None:
    import ldm_registry

    assert project(ROOT)["project"]["version"] == ldm_registry.__version__


def test_the_dependencies_are_those_that_the_design_allows() -> None:
    declared = {re.split(r"[<>=\[]", line)[0] for line in project(ROOT)["project"]["dependencies"]}
    # `packaging` reads what a plugin requires, as pip does; huggingface-hub brings it along in any case.
    allowed = (
        "torch numpy packaging pluggy pydantic safetensors huggingface-hub typer pyyaml pillow jaxtyping"
    )
    assert declared == set(allowed.split())


def test_the_plugins_to_install_are_all_there_are() -> None:
    if not PLUGINS:
        pytest.skip("no plugins in this tree")
    lines = (ROOT / "plugins" / "requirements.txt").read_text("utf-8").split("\n")
    assert sorted(line for line in lines if line) == [f"-e plugins/{folder.name}" for folder in PLUGINS]


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_is_a_distribution_of_its_own(folder: Path) -> None:
    data = project(folder)["project"]
    assert data["name"] == f"ldm-{folder.name.replace('_', '-')}"
    assert (folder / f"ldm_{folder.name}" / "py.typed").is_file()
    assert data["license"] == "Apache-2.0"
    assert data["requires-python"] == ">=3.11"
    assert any(line.startswith("ldm-registry") for line in data["dependencies"])


@pytest.mark.plugins
@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_returns_exactly_what_its_manifest_declares(folder: Path) -> None:
    from ldm_registry.registry import Registry

    declared = project(folder)["project"]["entry-points"]["ldm_registry"]
    registry = Registry.discover()
    for key in declared:
        kind, _, name = key.partition(".")
        assert registry.get(kind, name).name == name


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_has_a_model_card_with_front_matter(folder: Path) -> None:
    card = (folder / "README.md").read_text("utf-8")
    assert card.startswith("---\n")
    front = card.split("---\n")[1]
    assert "library_name: ldm-registry" in front
    assert "license: apache-2.0" in front
    assert "ldm-component" in front
