"""What `ldm plugin new` writes: complete, clean, and refused where it would clash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_plugin

from ldm_registry.__main__ import main
from ldm_registry.authoring.manifest import read_manifest
from ldm_registry.authoring.plugin_project import Project, files_of, new_project, parse_kinds
from ldm_registry.errors import SpecError
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec
from ldm_registry.vocabulary import Kind

GROUPS = (
    "encoder",
    "decoder",
    "encoder,decoder",
    "denoiser",
    "scheduler",
    "schedule",
    "conditioner",
    "modifier",
)
TOGETHER = (*GROUPS, "denoiser,scheduler", "schedule,encoder,decoder,modifier")
LONGEST = "abcdefghij-abcdefghij-abcdefghij"


def written(project: Project) -> Project:
    for path, text in files_of(project).items():
        target = project.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    return project


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> list[Project]:
    """Every group of kinds under a short and a long name."""
    top = tmp_path_factory.mktemp("projects")
    return [
        written(Project(f"{name}{index}"[-32:], parse_kinds([kinds]), top / f"ldm-{name}{index}"))
        for index, kinds in enumerate(TOGETHER)
        for name in ("a", "my-part", LONGEST)
    ]


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed")
def test_every_project_is_clean_and_formatted_whatever_its_name(projects: list[Project]) -> None:
    top = projects[0].folder.parent
    for command in (["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]):
        done = subprocess.run(["ruff", *command, str(top)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_manifest_declares_each_kind_once(projects: list[Project]) -> None:
    for project in projects:
        manifest = read_manifest(project.folder)
        assert manifest.distribution == project.distribution
        assert [(one.kind, one.name) for one in manifest.components] == [
            (kind, project.component(kind)) for kind in project.kinds
        ]
        assert manifest.modules == (project.module,)


def test_no_template_word_is_left_over(projects: list[Project]) -> None:
    for project in projects:
        for path in files_of(project):
            assert "$" not in (project.folder / path).read_text("utf-8"), path


def test_the_card_has_the_front_matter_of_the_hub(projects: list[Project]) -> None:
    for project in projects:
        text = (project.folder / "README.md").read_text("utf-8")
        assert text.startswith(
            "---\nlibrary_name: ldm-registry\nlicense: apache-2.0\ntags: [ldm-component, ldm-"
        )
        for kind in project.kinds:
            assert f"`{kind}.{project.component(kind)}`" in text


@pytest.mark.plugins
def test_every_spec_is_valid_and_names_its_component(projects: list[Project]) -> None:
    for project in projects:
        for group in project.groups:
            spec = load_spec(project.folder / project.spec(group))
            text = spec.model_dump_json()
            for kind in (Kind.ENCODER, Kind.DECODER) if group == "codec" else (Kind(group),):
                assert f'"{project.component(kind)}"' in text


@pytest.mark.parametrize("kinds", ["encoder,decoder", "schedule"])
def test_the_command_writes_it_and_says_what_comes_next(
    kinds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", "my-part", "--kind", kinds]) == 0
    assert "ldm run my-part.yaml -n 4 -o out" in capsys.readouterr().out
    assert main(["plugin", "new", "other", "--kind", kinds, "-o", "there", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["distribution"] == "ldm-other"
    assert sorted(document["files"]) == sorted(
        path.relative_to("there").as_posix() for path in Path("there").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("name", "kinds", "said"),
    [
        ("My-Part", "encoder", "lower-case words joined by hyphens"),
        ("my part", "encoder", "lower-case words joined by hyphens"),
        ("../part", "encoder", "lower-case words joined by hyphens"),
        ("2d", "encoder", "from a letter on"),
        ("my_part", "encoder", "my-part"),
        ("ldm-part", "encoder", "leave out the `ldm-`"),
        ("registry", "encoder", "the core's own"),
        ("class", "encoder", "word of Python's"),
        ("a" * 33, "encoder", "33 characters"),
        ("part", "encoder,encoder", "given twice"),
        ("part", "encodr", "did you mean 'encoder'"),
    ],
)
def test_a_bad_name_or_kind_is_refused_and_nothing_is_written(
    name: str,
    kinds: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", name, "--kind", kinds]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    registry = Registry([toy_plugin])
    with pytest.raises(SpecError, match="taken") as caught:
        new_project("toy-codec", [Kind.ENCODER], tmp_path / "new", registry=registry)
    assert caught.value.problems == ("encoder 'toy-codec' comes with toy_plugin already",)
    assert not (tmp_path / "new").exists()
    new_project("toy-codec", [Kind.ENCODER], tmp_path / "new", registry=registry, allow_clash=True)
    new_project("toy-codec", [Kind.SCHEDULER], tmp_path / "other", registry=registry)


def test_a_schedule_is_joined_by_underscores_however_it_is_written(tmp_path: Path) -> None:
    for name in ("my_line", "my-line"):
        project = new_project(name, [Kind.SCHEDULE], tmp_path / name)
        assert (project.distribution, project.module) == ("ldm-my-line", "ldm_my_line")
        assert [one.name for one in read_manifest(project.folder).components] == ["my_line"]


def test_a_project_that_cannot_be_finished_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ldm_registry.authoring.first_checkpoint.write_untrained", fail)
    with pytest.raises(OSError, match="no space"):
        new_project("part", [Kind.DENOISER], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(SpecError, match="exists already"):
        new_project("part", [Kind.ENCODER], tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "dear"


def test_a_new_denoiser_brings_a_checkpoint_that_its_contract_describes(tmp_path: Path) -> None:
    project = new_project("part", [Kind.DENOISER], tmp_path / "new")
    assert {path.name for path in (project.folder / "checkpoint").iterdir()} == {
        "README.md",
        "config.json",
        "contract.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert not list(project.folder.rglob("__pycache__"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mypy") is None, reason="mypy is not installed")
def test_every_project_and_its_tests_are_strictly_typed(projects: list[Project]) -> None:
    kinds = [project for project in projects if project.name.startswith("my-part")]
    paths = [str(path) for project in kinds for path in project.folder.rglob("*.py")]
    command = ["mypy", "--no-incremental", "--config-file", str(kinds[0].folder / "pyproject.toml")]
    search = os.pathsep.join(str(project.folder) for project in kinds)
    done = subprocess.run(
        [*command, *paths],
        env={**os.environ, "MYPYPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize("kinds", GROUPS)
def test_a_new_project_installs_passes_its_tests_and_runs_in_its_spec(kinds: str, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the build backend of the projects")
    project = new_project("my-part", parse_kinds([kinds]), tmp_path / "ldm-my-part")
    site = tmp_path / "site"
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), "."]
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    spec = project.spec(project.groups[0])
    lines = [
        pip,
        ["pytest", "-q", "-p", "no:cacheprovider"],
        ["ldm_registry", "plugin", "test", "./"],
        ["ldm_registry", "plugin", "test", "my-part" if kinds != "schedule" else "my_part"],
        ["ldm_registry", "check", spec],
        ["ldm_registry", "run", spec, "-n", "2", "-o", "out"],
    ]
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", *line],
            cwd=project.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert len(list((project.folder / "out").glob("image-*.png"))) == 2
