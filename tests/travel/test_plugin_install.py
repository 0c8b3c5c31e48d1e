from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from toy_project import NAME, REPO, Place, offered, toy_project, tree

from ldm_registry.__main__ import main
from ldm_registry.errors import IntegrityError, MissingDependencyError, NotFoundError, SpecError
from ldm_registry.travel import plugin_store
from ldm_registry.travel.plugin_contents import ENDINGS, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES
from ldm_registry.travel.plugin_install import install, record, remove
from ldm_registry.travel.plugin_offer import offer, offer_update
from ldm_registry.travel.plugin_states import states, verified
from ldm_registry.travel.plugin_store import Installed, installed
from ldm_registry.travel.plugin_text import describe_offer, render_offer
from ldm_registry.travel.sealed_code import require_sealed


@pytest.fixture
def plugin(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line, installing into the place."""
    monkeypatch.setattr(plugin_store, "environment_site", lambda: place.site)
    return lambda *words: main(["plugin", *words])


def test_what_is_installed_is_found_by_python_and_lies_there_as_it_was_published(
    hub: LoopbackHub, place: Place, tmp_path: Path
) -> None:
    files = toy_project()
    commit = hub.publish(REPO, files, tag="v1.0.0")
    plugin = place.install()
    assert plugin.problems == ()
    assert plugin.folder is not None
    assert plugin.seal is not None
    assert (plugin.seal.commit, plugin.seal.repository, plugin.seal.revision) == (commit, REPO, "v1.0.0")
    there = tree(plugin.folder)
    assert all(
        there[path] == content for path, content in files.items() if path.startswith(NAME.replace("-", "_"))
    )
    assert not any("test" in path for path in there)
    assert not (tmp_path / "mark").exists()
    code = (
        "import site, sys; site.addsitedir(sys.argv[1])\n"
        "from importlib import metadata\n"
        "points = {point.name: point for point in metadata.entry_points(group='ldm_registry')}\n"
        "print(points['scheduler.toy-travel'].dist.name, points['scheduler.toy-travel'].load().ANSWER)\n"
        "import ldm_toy_travel.deep"
    )
    for _ in range(2):
        command = [sys.executable, "-c", code, str(place.site)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ended.stdout.split() == [NAME, "42"]
    assert (tmp_path / "mark").read_text() == "it ran"
    assert tree(plugin.folder) == there, "Python has written nothing beside it"
    assert installed(place.site) == [plugin]


def test_a_src_layout_is_installed_without_its_src(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, toy_project(source="src/"), tag="v1.0.0")
    plugin = place.install()
    assert plugin.folder is not None
    assert (plugin.folder / "ldm_toy_travel/deep/__init__.py").is_file()


def test_a_plugin_may_be_a_single_module(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"ldm_toy_travel.py": b"ANSWER = 42\n", "pyproject.toml": toy_project()["pyproject.toml"]}
    found = place.put(offered({**files, "other.py": b"import os\n"}))
    assert found.folder is not None
    assert {path for path in tree(found.folder) if "dist-info" not in path} == {
        "__pycache__",
        "ldm-plugin.json",
        "ldm_toy_travel.py",
    }
    monkeypatch.syspath_prepend(str(found.folder))
    require_sealed("ldm_toy_travel")
    assert verified([], place.site, place.lock)[0].problems == ()


def test_the_lock_names_repository_commit_digest_and_every_file(hub: LoopbackHub, place: Place) -> None:
    commit = hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.lock.write_text(json.dumps({"version": 1, "checkpoints": [], "kept": {"by": "others"}}))
    found = place.offer()
    install(found, found.digest, place.site, place.lock)
    document = json.loads(place.lock.read_text())
    (entry,) = document["plugins"]
    assert document["kept"] == {"by": "others"}
    assert (entry["repo"], entry["commit"], entry["revision"]) == (REPO, commit, "v1.0.0")
    assert entry["digest"] == found.digest
    assert {file["path"] for file in entry["files"]} == set(found.files)


def test_the_digest_is_that_of_the_sorted_lines_of_sha256sum(
    hub: LoopbackHub, place: Place, tmp_path: Path
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    found = place.offer()
    for path, content in found.files.items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(content)
    command = 'find . -type f | sed "s|^\\./||" | LC_ALL=C sort | xargs sha256sum | sha256sum'
    ended = subprocess.run(
        command, shell=True, cwd=tmp_path / "copy", capture_output=True, text=True, check=True
    )
    assert found.digest == f"sha256:{ended.stdout.split()[0]}"


def test_before_consent_a_person_sees_what_it_is_and_what_deserves_a_look(
    hub: LoopbackHub, place: Place
) -> None:
    commit = hub.publish(REPO, toy_project(), tag="v1.0.0")
    found = place.offer()
    text = render_offer(found)
    for shown in (
        commit,
        "v1.0.0",
        "scheduler.toy-travel",
        "ldm_toy_travel/__init__.py:1",
        "import os",
        found.digest,
    ):
        assert shown in text
    assert describe_offer(found)["code"]["lines"] == 5
    asked = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert "pyproject.toml" in asked[0]
    assert not any("README" in path or "test_toy" in path for path in asked)


def test_the_same_commit_again_changes_nothing_and_fills_in_a_lost_lock(
    hub: LoopbackHub, place: Place
) -> None:
    commit = hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.install()
    before, locked = tree(place.site), place.lock.read_text()
    place.lock.unlink()
    for revision in ("v1.0.0", commit, "main"):
        again = offer(place.client, f"hf://{REPO}@{revision}", place.site, place.lock)
        assert isinstance(again, Installed)
        record(again, place.site, place.lock)
    assert (tree(place.site), place.lock.read_text()) == (before, locked)


def test_another_commit_is_an_update_and_not_an_installation(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.install()
    hub.publish(REPO, toy_project("1.1.0", 43), tag="v1.1.0")
    with pytest.raises(SpecError, match="another commit") as caught:
        place.offer("v1.1.0")
    assert "ldm plugin update ldm-toy-travel --to" in str(caught.value)


def test_what_is_missing_is_named_and_not_installed(hub: LoopbackHub, place: Place) -> None:
    files = toy_project(answer=42)
    files["ldm_toy_travel/__init__.py"] += b"import no_such_module\n"
    needs = b'dependencies = ["no-such-library>=2", "torch>=999", "ldm-registry"]'
    files["pyproject.toml"] = files["pyproject.toml"].replace(b'dependencies = ["ldm-registry>=0.1"]', needs)
    hub.publish(REPO, files, tag="v1.0.0")
    found = place.offer()
    assert found.missing[0] == "no-such-library>=2"
    assert found.missing[1].startswith("torch>=999 (there is ")
    assert found.unsupplied == ("no_such_module",)
    assert "no_such_module" in render_offer(found)
    with pytest.raises(MissingDependencyError, match="no-such-library") as caught:
        install(found, found.digest, place.site, place.lock)
    assert "pip install 'no-such-library>=2' 'torch>=999'" in str(caught.value)
    assert tree(place.site) == {}
    assert not place.lock.exists()
    install(found, found.digest, place.site, place.lock, allow_missing=True)
    assert [one.distribution for one in installed(place.site)] == [NAME]


def test_an_update_shows_the_code_that_changes_and_asks_again(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    old = place.install()
    commit = hub.publish(REPO, toy_project("1.1.0", 43), tag="v1.1.0")
    hub.publish(REPO, toy_project("2.0.0rc1", 44), tag="v2.0.0rc1")
    found = place.update()
    assert (found.revision, found.commit) == ("v1.1.0", commit)
    assert "-ANSWER = 42\n+ANSWER = 43\n" in found.changes
    assert "+ANSWER = 43" in render_offer(found)
    assert old.seal is not None
    for digest in (None, old.seal.digest):
        with pytest.raises(IntegrityError):
            install(found, digest, place.site, place.lock)
        assert installed(place.site) == [old]
    new = install(found, found.digest, place.site, place.lock)
    assert new.seal is not None
    assert new.seal.commit == commit
    assert old.folder is not None
    assert not old.folder.exists()
    assert json.loads(place.lock.read_text())["plugins"][0]["commit"] == commit
    assert isinstance(offer_update(place.client, NAME, None, place.site, place.lock), Installed)


def test_an_update_that_leaves_the_code_alone_needs_no_new_consent(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.install()
    hub.publish(REPO, {"README.md": b"# Another card\n"}, tag="v1.0.1")
    found = place.update()
    assert found.is_known_code
    assert found.changes == ""


def test_removing_leaves_nothing_behind(place: Place) -> None:
    place.put(offered(toy_project()))
    assert remove("scheduler/toy-travel", place.site, place.lock) == NAME
    assert tree(place.site) == {}
    assert "plugins" not in json.loads(place.lock.read_text())
    with pytest.raises(NotFoundError):
        remove(NAME, place.site, place.lock)
    assert place.put(offered(toy_project())).problems == ()


@pytest.mark.parametrize("broken", ["record", "switch", "code", "folder"])
def test_a_plugin_is_removed_however_broken_it_is(place: Place, broken: str) -> None:
    folder = place.put(offered(toy_project())).folder
    assert folder is not None
    if broken == "record":
        (folder / "ldm-plugin.json").write_text("{")
    elif broken == "switch":
        (place.site / f"ldm-plugin-{NAME}.pth").write_bytes(b"\xff/nowhere")
    elif broken == "code":
        (folder / "ldm_toy_travel/__init__.py").write_text("raise SystemExit")
    else:
        folder.rename(folder.with_name("elsewhere"))
    (state,) = (one for one in states(place.site, place.lock) if one.distribution == NAME)
    assert state.problems
    assert remove(NAME, place.site, place.lock) == NAME
    assert tree(place.site) == {}


def test_what_pip_installed_is_left_to_pip(place: Place) -> None:
    with pytest.raises(NotFoundError, match="pip uninstall pluggy"):
        remove("pluggy", place.site, place.lock)


def test_a_locked_plugin_that_is_not_installed_is_a_finding_and_can_be_taken_out(place: Place) -> None:
    place.put(offered(toy_project()))
    locked = place.lock.read_text()
    remove(NAME, place.site, place.lock)
    place.lock.write_text(locked)
    (state,) = verified([], place.site, place.lock)
    assert "it is not installed" in state.problems[0]
    assert remove(NAME, place.site, place.lock) == NAME
    assert verified([], place.site, place.lock) == []


def test_the_commands_install_list_verify_update_and_remove(
    hub: LoopbackHub, place: Place, plugin: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.publish(REPO, toy_project(), tag="v1.0.0")
    assert plugin("install", f"hf://{REPO}@v1.0.0", "--dry-run", "--json") == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert tree(place.site) == {}
    assert plugin("install", f"{REPO}@v1.0.0", "--trust-code", digest) == 0
    assert commit in capsys.readouterr().out
    assert plugin("install", f"{REPO}@v1.0.0") == 0
    assert plugin("verify") == 0
    capsys.readouterr()
    assert plugin("list", "--json") == 0
    rows = {row["distribution"]: row for row in json.loads(capsys.readouterr().out)["plugins"]}
    assert rows[NAME]["origin"] == f"hf://{REPO}"
    assert rows[NAME]["locked"]
    assert not rows[NAME]["problems"]
    hub.publish(REPO, toy_project("1.1.0", 43), tag="v1.1.0")
    assert plugin("update", NAME) == 4
    asked = capsys.readouterr().err
    assert "+ANSWER = 43" in asked
    digest = next(word for word in asked.split() if word.startswith("sha256:"))
    assert plugin("update", NAME, "--trust-code", digest) == 0
    assert plugin("verify", NAME) == 0
    (stray,) = place.site.rglob("ldm_toy_travel/deep/table.json")
    stray.write_text("[]\n")
    assert plugin("verify") == 4
    assert "ALTERED" in capsys.readouterr().out
    (place.site / "ldm-plugins.d" / NAME).joinpath("stray").mkdir()
    assert plugin("remove", NAME) == 0
    assert tree(place.site) == {}
    assert plugin("remove", NAME) == 3
    assert plugin("verify", "pluggy") == 3


@pytest.mark.parametrize(("typed", "code"), [(f"{NAME}\n", 0), ("yes\n", 4)])
def test_at_a_terminal_the_name_has_to_be_typed(
    hub: LoopbackHub,
    place: Place,
    plugin: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    code: int,
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert plugin("install", f"hf://{REPO}@v1.0.0") == code
    assert bool(installed(place.site)) == (code == 0)


class Terminal:
    """Somebody who types one line."""

    def __init__(self, typed: str) -> None:
        self.typed = typed

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.typed


def test_the_page_names_the_limits_as_they_are(root: Path) -> None:
    page = (root / "docs" / "hub.md").read_text("utf-8").partition("## Plugins")[2]
    limits = f"{MAX_FILES} files, files over {MAX_FILE_BYTES // 2**20} MiB or {MAX_TOTAL_BYTES // 2**20} MiB"
    assert limits in page
    assert f"`{' '.join(ENDINGS)}`" in page
