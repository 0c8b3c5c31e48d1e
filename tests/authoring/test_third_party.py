"""Five plugins that were written from the docs alone: they conform, and work in every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ldm_registry.authoring.manifest import read_manifest
from ldm_registry.authoring.plugin_check import check_project, render
from ldm_registry.authoring.project_loading import LoadedProject, loaded_project
from ldm_registry.vocabulary import Kind

THIRD_PARTY = Path(__file__).parents[1] / "third_party"
PROJECTS = sorted(path.parent for path in THIRD_PARTY.glob("*/pyproject.toml"))
SPECS = sorted(THIRD_PARTY.glob("*/*.yaml"))
ALL_FIVE = """
extends: emoji-kl-dit
encoder: {use: block-dct, config: {stride: 8, stds: [5.0]}}
denoiser: {use: gaussian, config: {channels: 3}}
scheduler: {use: dpm-midpoint, schedule: {name: cosine}, config: {steps: 4}}
decoder:
  use: latent-preview
  config: {weights: [[0.3, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3]]}
condition: null
guidance: null
"""
Ldm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def loaded() -> Iterator[list[LoadedProject]]:
    """All of them, found like installed ones."""
    with ExitStack() as stack:
        yield [stack.enter_context(loaded_project(folder)) for folder in PROJECTS]


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Ldm:
    """The command line in an environment into which pip has installed all of them."""
    pytest.importorskip("hatchling", reason="the build backend of the projects")
    top = tmp_path_factory.mktemp("installed")
    copies = [shutil.copytree(folder, top / folder.name) for folder in PROJECTS]
    site = top / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), *map(str, copies)], check=True, capture_output=True)
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(
        *words: str | Path, codes: tuple[int, ...] = (0,), module: str = "ldm_registry"
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            cwd=top,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in codes, f"{words}\n{done.stdout}{done.stderr}"
        return done

    return run


def test_there_are_five_of_the_common_kinds() -> None:
    kinds = [[one.kind for one in read_manifest(folder).components] for folder in PROJECTS]
    assert sorted(kinds) == [
        [Kind.CONDITIONER],
        [Kind.DECODER],
        [Kind.DENOISER],
        [Kind.ENCODER, Kind.DECODER],
        [Kind.SCHEDULER],
    ]


def test_they_import_public_names_alone() -> None:
    public = {
        "interfaces",
        "foreign",
        "trainable",
        "vocabulary",
        "prediction",
        "errors",
        "hookspecs",
        "testing",
    }
    for path in THIRD_PARTY.rglob("*.py"):
        lines = [line.split() for line in path.read_text("utf-8").splitlines()]
        modules = {words[1] for words in lines if words[:1] == ["from"] and "ldm_registry" in words[1]}
        assert {name.removeprefix("ldm_registry").removeprefix(".") for name in modules} <= public | {""}


@pytest.mark.plugins
def test_they_make_images_with_the_bundled_parts(loaded: list[LoadedProject], tmp_path: Path) -> None:
    from ldm_registry import assemble, load_spec, swap

    (tmp_path / "all.yaml").write_text(ALL_FIVE, "utf-8")
    mixer = THIRD_PARTY / "ldm-hashed-trigrams" / "hashed-trigrams.yaml"
    for spec in (load_spec(tmp_path / "all.yaml"), swap(load_spec(mixer), scheduler_config={"steps": 2})):
        images = assemble(spec).sample(2, seed=0)
        assert images.shape == (2, 3, 64, 64)
        assert bool(images.isfinite().all())
        assert not bool(images[0].eq(images[1]).all())


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_it_conforms(folder: Path) -> None:
    report = check_project(folder)
    assert report.passed, render(report)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed")
def test_they_are_clean_and_typed() -> None:
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            ["ruff", *command, str(THIRD_PARTY)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    if shutil.which("mypy") is not None:
        packages = [str(package) for package in THIRD_PARTY.glob("*/ldm_*")]
        mypy = ["mypy", "--strict", "--no-incremental", "--config-file", str(PROJECTS[0] / "pyproject.toml")]
        done = subprocess.run([*mypy, *packages], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.plugins
def test_their_own_tests_pass_where_they_are_installed(ldm: Ldm) -> None:
    for folder in PROJECTS:
        distribution = read_manifest(folder).distribution
        document = json.loads(ldm("plugin", "test", distribution, "--json").stdout)
        assert document["passed"]
        ldm("-q", "-p", "no:cacheprovider", "--rootdir", folder, folder / "tests", module="pytest")


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_its_spec_works_in_every_command_that_takes_one(spec: Path, ldm: Ldm, tmp_path: Path) -> None:
    ldm("check", spec)
    ldm("run", spec, "-n", "2", "-o", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("image-*.png"))) == 2
    ldm("run", tmp_path / "out" / "run.json", "-o", tmp_path / "again")
    for index in range(2):
        name = f"image-{index:05}.png"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    events = json.loads(ldm("trace", spec, "--json").stdout)
    assert events
    ldm("compare", spec, "emoji-kl-dit", "-n", "2", "-o", tmp_path / "compared")
    ldm("swap", spec, "scheduler=dpm-midpoint", "-o", tmp_path / "swapped.yaml")
    ldm("check", tmp_path / "swapped.yaml")
    ldm(
        "inject",
        spec,
        "time-scale" if "dct" not in spec.stem else "unit-range-input",
        "-o",
        tmp_path / "f.yaml",
    )
    # These parts were not made for one another, so something may well be found.
    document = json.loads(ldm("diagnose", spec, "--quick", "--json", codes=(0, 1)).stdout)
    assert document["verdict"]


@pytest.mark.slow
@pytest.mark.plugins
def test_they_are_listed_shown_and_trained(ldm: Ldm, tmp_path: Path) -> None:
    listed = json.loads(ldm("list", "--json").stdout)["components"]
    for folder in PROJECTS:
        manifest = read_manifest(folder)
        for one in manifest.components:
            (row,) = (row for row in listed if (row["kind"], row["name"]) == (one.kind, one.name))
            assert row["distribution"] == manifest.distribution
            assert row["status"] == "declared"
            (card,) = json.loads(ldm("show", f"{one.kind}/{one.name}", "--json").stdout)["components"]
            assert all(field["description"] for field in card["config"])
    images = Path(__file__).parents[2] / "specs" / "data" / "noto-emoji-64-val.tar"
    (tmp_path / "train.yaml").write_text(
        "extends: emoji-kl-dit\n"
        "denoiser: {use: conv-mixer, trained: {prediction: v, schedule: {name: squaredcos_cap_v2, steps: 1000}}}\n"
        f"train: {{images: {images}, denoiser: {{steps: 2, batch: 8}}}}\n",
        "utf-8",
    )
    ldm("train", "denoiser", tmp_path / "train.yaml", "-o", tmp_path / "trained")
    ldm("plugin", "test", "conv-mixer", "--checkpoint", tmp_path / "trained")
