"""`ldm plugin test`: from a folder as if it were installed, from what is installed, and what it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_registry.__main__ import main
from ldm_registry.authoring.plugin_check import check_installed, check_project, render
from ldm_registry.authoring.plugin_project import new_project
from ldm_registry.authoring.project_loading import loaded_project
from ldm_registry.errors import PluginError
from ldm_registry.registry import Registry
from ldm_registry.testing import Status
from ldm_registry.vocabulary import Kind

Edit = Callable[[str, str], None]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new decoder."""
    return new_project("part", [Kind.DECODER], tmp_path / "ldm-part").folder


@pytest.fixture
def edit(project: Path) -> Edit:
    """Changes the decoder's module."""
    module = project / "ldm_part" / "decoder.py"

    def change(before: str, after: str) -> None:
        text = module.read_text("utf-8")
        assert before in text
        module.write_text(text.replace(before, after), "utf-8")

    return change


def test_a_sound_project_passes_and_leaves_no_trace(project: Path) -> None:
    path, modules = list(sys.path), set(sys.modules)
    files = sorted(project.rglob("*"))
    report = check_project(project)
    assert report.passed, render(report)
    assert {result.status for result in report.reports[0].results} == {Status.PASSED, Status.NOT_APPLICABLE}
    assert sys.path == path
    assert not {name for name in set(sys.modules) - modules if name.startswith("ldm_part")}
    assert sorted(project.rglob("*")) == files
    assert not [entry for entry in Registry.discover().entries() if entry.name == "part"]


def test_inside_the_context_the_project_is_found_like_an_installed_one(project: Path) -> None:
    with loaded_project(project) as loaded:
        ((declared, component),) = loaded.components
        assert Registry.discover().get("decoder", "part") is component
        assert (declared.kind, declared.name, declared.module) == (Kind.DECODER, "part", "ldm_part")


def test_a_module_of_the_same_name_is_hidden_and_comes_back(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = new_project("part", [Kind.ENCODER], tmp_path / "elsewhere").folder
    monkeypatch.syspath_prepend(elsewhere)
    import ldm_part

    with loaded_project(project) as loaded:
        assert loaded.components[0][1].__name__ == "PartDecoder"
    assert sys.modules["ldm_part"] is ldm_part
    assert not hasattr(ldm_part, "PartDecoder")
    del sys.modules["ldm_part"], sys.modules["ldm_part.encoder"]


def test_a_project_in_a_source_folder_loads(project: Path) -> None:
    (project / "src").mkdir()
    (project / "ldm_part").rename(project / "src" / "ldm_part")
    with loaded_project(project) as loaded:
        assert len(loaded.components) == 1


def test_a_failed_check_says_what_was_got_what_was_expected_and_where(
    project: Path, edit: Edit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit("        tiles = ", "        tiles = 0.0 / 0.0 * ")
    monkeypatch.chdir(project)
    assert main(["plugin", "test", "."]) == 1
    lines = capsys.readouterr().out.splitlines()
    (at,) = (row for row, line in enumerate(lines) if "FAILED          gradients_are_finite" in line)
    assert "it raised ZeroDivisionError" in lines[at]
    assert lines[at + 1].strip().startswith("expected: The output has a finite gradient")
    assert lines[at + 2].strip().startswith(f"where: {project / 'ldm_part' / 'decoder.py'}:")
    assert sum(" ok " in line for line in lines) > 5


@pytest.mark.parametrize("line", ["raise ValueError('no')", "raise SystemExit(0)"])
def test_a_component_that_cannot_be_built_fails_its_checks_and_nothing_else(
    line: str, project: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("        self.image_channels = 3\n", f"        {line}\n")
    assert main(["plugin", "test", str(project)]) == 1
    assert f"component_keeps_its_config: it raised {line[6:].partition('(')[0]}" in capsys.readouterr().out


def test_every_check_is_a_line_and_the_document_holds_the_same(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugin", "test", str(project), "--json"]) == 0
    ((component,),) = (one["components"] for one in json.loads(capsys.readouterr().out)["plugins"])
    assert component["component"] == "decoder.part"
    assert component["passed"]
    text = render(check_project(project))
    assert all(f" {row['check']}" in text for row in component["results"])


def test_a_capability_is_declared_missing_with_its_reason_which_is_shown(
    project: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        "    config: DecoderConfig\n",
        '    config: DecoderConfig\n    exempt_from = {"runs_in_bfloat16": "tiles need more digits"}\n',
    )
    assert main(["plugin", "test", str(project)]) == 0
    assert "skipped         runs_in_bfloat16: tiles need more digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("exemption", "said"),
    [
        ('{"runs_in_bfloat16": " "}', "'runs_in_bfloat16' has no reason"),
        ('{"runs_in_bfloat17": "why"}', "did you mean 'runs_in_bfloat16'"),
        ('{"noise_grows_with_time": "why"}', "is not asked of a decoder"),
        ('"runs_in_bfloat16"', "expected reasons by check"),
    ],
)
def test_an_exemption_without_a_reason_or_a_check_is_refused(
    exemption: str, said: str, project: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("    config: DecoderConfig\n", f"    config: DecoderConfig\n    exempt_from = {exemption}\n")
    assert main(["plugin", "test", str(project)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "code", "said"),
    [
        ("from __future__", "import no_such_module\nfrom __future__", 6, "cannot be imported"),
        ('name = "part"', 'name = "other"', 6, "declared but not returned: decoder.part"),
        ("def decode(", "def decod(", 6, "is abstract: it lacks decode"),
        ('Field(default=8, ge=1, description="Side', 'Field(ge=1, description="Side', 2, "no default config"),
    ],
)
def test_a_broken_project_ends_with_its_code(
    before: str,
    after: str,
    code: int,
    said: str,
    project: Path,
    edit: Edit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(before, after)
    assert main(["plugin", "test", str(project)]) == code
    assert said in capsys.readouterr().err


def test_an_import_that_fails_is_told_with_its_line(
    project: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("from typing import final\n", "from typing import final\n\nimport no_such_module\n")
    assert main(["plugin", "test", str(project)]) == 6
    said = capsys.readouterr().err
    assert "ModuleNotFoundError: No module named 'no_such_module'" in said
    assert f"its code is in {project}; it stopped at ldm_part/decoder.py:7" in said
    assert "uninstall" not in said


def test_a_name_that_an_installed_plugin_has_is_not_tested(project: Path, tmp_path: Path) -> None:
    other = new_project("part", [Kind.DECODER], tmp_path / "other").folder
    manifest = (other / "pyproject.toml").read_text("utf-8")
    (other / "pyproject.toml").write_text(manifest.replace("ldm-part", "ldm-rival"), "utf-8")
    with loaded_project(other), pytest.raises(PluginError) as caught, loaded_project(project):
        pass
    assert "claimed by ldm-part (ldm_part) and ldm-rival (ldm_part)" in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "code", "said"),
    [
        ("[project]", "[project", 2, "is not valid TOML"),
        ('version = "0.1.0"', "", 2, "project.version"),
        ('name = "ldm-part"', 'name = "../part"', 2, "project.name"),
        ('"decoder.part"', '"decodr.part"', 2, "did you mean 'decoder'"),
        ('= "ldm_part"', '= "ldm_part:hook"', 2, "expected a module"),
        ('"decoder.part" = "ldm_part"', "", 2, "declares no component"),
        ('= "ldm_part"', '= "ldm_other"', 3, "does not hold the modules"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_before_anything_is_imported(
    before: str, after: str, code: int, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "pyproject.toml"
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after), "utf-8")
    (project / "ldm_part" / "__init__.py").write_text("raise SystemExit('imported')\n", "utf-8")
    assert main(["plugin", "test", str(project)]) == code
    assert said in capsys.readouterr().err


def test_only_a_path_is_taken_for_a_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.parent)
    assert main(["plugin", "test", "ldm-part"]) == 3
    assert "`ldm plugin test ./ldm-part`" in capsys.readouterr().err
    assert main(["plugin", "test", "./nowhere"]) == 3
    assert main(["plugin", "test", "decoder/nowhere"]) == 3


def test_what_is_installed_is_found_by_component_kind_and_distribution(project: Path) -> None:
    with loaded_project(project):
        for name in ("part", "decoder/part", "ldm-part", "ldm_part"):
            (report,) = check_installed(name)
            assert report.plugin == "ldm-part 0.1.0"
            assert [one.component for one in report.reports] == ["decoder.part"]
            assert report.passed


def test_a_setting_of_the_command_line_reaches_the_config(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugin", "test", str(project), "--config", "stride=0"]) == 2
    assert "stride: Input should be greater than or equal to 1" in capsys.readouterr().err
    assert main(["plugin", "test", str(project), "--config", "stride"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_of_every_kind_passes_untouched(kind: Kind, tmp_path: Path) -> None:
    report = check_project(new_project("part", [kind], tmp_path / "new").folder)
    assert report.passed, render(report)
