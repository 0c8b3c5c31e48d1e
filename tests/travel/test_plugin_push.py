from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from toy_project import Place

from ldm_registry.authoring.plugin_project import new_project
from ldm_registry.errors import IntegrityError
from ldm_registry.travel.plugin_push import prepare_plugin
from ldm_registry.vocabulary import Kind

REPO = "org/ldm-slow-steps"
THIRD_PARTY = sorted((Path(__file__).parents[1] / "third_party").glob("ldm-*"))

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as the author's kit writes it."""
    folder = tmp_path_factory.mktemp("written") / "ldm-slow-steps"
    return new_project("slow-steps", [Kind.SCHEDULER], folder).folder


@pytest.fixture
def project(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be changed at will, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(written, tmp_path / "ldm-slow-steps"))


def test_what_was_published_is_what_others_install(
    project: Path, hub: LoopbackHub, place: Place, ldm: Run
) -> None:
    said = ldm("plugin", "push", "./ldm-slow-steps", REPO, "--json").document
    assert hub.repositories[REPO].tags == {"v0.1.0": said["commit"]}
    (line,) = said["paste"]
    assert line == f"ldm plugin install hf://{REPO}@{said['commit']} --trust-code {said['code_digest']}"
    offered = place.offer(said["commit"], REPO)
    assert offered.digest == said["code_digest"]
    assert set(said["uploaded"]) == {file["path"] for file in said["files"]} >= {"LICENSE", "pyproject.toml"}
    assert said["conformance"]["passed"]
    assert said["notes"] == []


@pytest.mark.slow
def test_to_publish_again_uploads_nothing_and_a_change_needs_a_new_version(
    project: Path, hub: LoopbackHub, ldm: Run
) -> None:
    first = ldm("plugin", "push", project, REPO, "--json").document
    assert ldm("plugin", "push", project, REPO, "--json").document["commit"] == first["commit"]
    assert hub.count("POST", "/commit/") == 1
    (project / "NOTICE").write_text("more")
    ended = ldm("plugin", "push", project, REPO)
    assert ended.code == 4
    assert "0.1.1, by `version` in pyproject.toml" in ended.err
    manifest = (project / "pyproject.toml").read_text().replace('version = "0.1.0"', 'version = "0.1.1"')
    (project / "pyproject.toml").write_text(manifest)
    assert ldm("plugin", "push", project, REPO).code == 0
    assert sorted(hub.repositories[REPO].tags) == ["v0.1.0", "v0.1.1"]


@pytest.mark.slow
def test_the_card_says_how_to_install_it_and_what_was_checked(
    project: Path, hub: LoopbackHub, ldm: Run
) -> None:
    said = ldm("plugin", "push", project, REPO, "--json").document
    card = hub.repositories[REPO].head.files["README.md"].content.decode()
    assert f"ldm plugin install hf://{REPO}@v0.1.0" in card
    assert said["code_digest"] in card
    passed = sum(one["status"] == "passed" for one in said["conformance"]["components"][0]["results"])
    assert f"| scheduler | `slow-steps` | {passed} of {passed} | 0 |" in card
    (found,) = ldm("search", "--tag", "ldm-plugin", "--json").document["found"]
    assert (found["repository"], found["kinds"]) == (REPO, ["scheduler"])


def test_a_dry_run_asks_nobody(project: Path, hub: LoopbackHub, ldm: Run) -> None:
    (project / "LICENSE").unlink()
    ended = ldm("plugin", "push", project, REPO, "--dry-run")
    assert (ended.code, hub.requests) == (0, [])
    assert "ldm_slow_steps/scheduler.py" in ended.out
    assert "left out: .gitignore" in ended.out
    assert "there is no LICENSE file" in ended.out


def test_a_plugin_that_does_not_conform_stays_here(project: Path, hub: LoopbackHub, ldm: Run) -> None:
    module = project / "ldm_slow_steps" / "scheduler.py"
    text = module.read_text()
    broken = re.sub(
        r"(def trajectory\(.*?\) -> .*?:\n)", r"\1        raise ValueError('no')\n", text, flags=re.DOTALL
    )
    assert broken != text
    module.write_text(broken)
    ended = ldm("plugin", "push", project, REPO)
    assert ended.code == 1
    assert "ValueError: no" in ended.err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ("ldm_slow_steps/lib.so", b"\x7fELF", "not a file of"),
        ("ldm_slow_steps/key.json", b'{"k": "hf_' + b"aB3dE6gH9jK2mN5pQ8sT1vW4" + b'"}', "key.json:1"),
        ("setup.py", b"", "setup.py"),
        ("weights.pkl", b"", "pickle"),
    ],
)
def test_what_must_not_be_published_is_found_before_a_line_of_it_runs(
    path: str, content: bytes, says: str, project: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    init = project / "ldm_slow_steps" / "__init__.py"
    init.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n" + init.read_text())
    (project / path).write_bytes(content)
    with pytest.raises(IntegrityError, match=says):
        prepare_plugin(project, REPO)
    assert not (tmp_path / "ran").exists()


def test_a_link_in_a_project_is_found(project: Path) -> None:
    (project / "ldm_slow_steps" / "data.json").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match=r"data\.json: a link"):
        prepare_plugin(project, REPO)


def test_a_checkpoint_is_not_written_over_by_a_plugin(project: Path, hub: LoopbackHub, ldm: Run) -> None:
    hub.publish(REPO, {"contract.json": b"{}", "config.json": b"{}"})
    ended = ldm("plugin", "push", project, REPO)
    assert ended.code == 4
    assert "something else than a plugin" in ended.err
    assert hub.count("POST", "/commit/") == 0


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize("folder", THIRD_PARTY, ids=lambda path: path.name)
def test_plugins_of_others_are_published_and_can_be_installed(
    folder: Path, hub: LoopbackHub, place: Place, ldm: Run
) -> None:
    said = ldm("plugin", "push", folder, f"org/{folder.name}", "--json").document
    assert said["conformance"]["passed"], said
    assert place.offer(said["commit"], f"org/{folder.name}").digest == said["code_digest"]
    if (folder / "checkpoint").is_dir():
        card = hub.repositories[f"org/{folder.name}"].head.files["README.md"].content.decode()
        (command,) = re.findall(r"`ldm (pull [^`]*)`", card)
        pulled = ldm(*command.split(), "--json").document
        assert f"checkpoint: {pulled['checkpoint']}".replace(said["commit"], "COMMIT") in card
