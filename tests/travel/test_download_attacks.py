from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub.faults import Fault, listed

from ldm_registry.errors import IntegrityError, LdmError
from ldm_registry.hub import Listing, RemoteFile
from ldm_registry.travel.in_specs import lock_spec
from ldm_registry.travel.listing import Limits, checked_listing, path_problem
from ldm_registry.travel.lock import LOCK
from ldm_registry.travel.pull import held_commits, obtain
from ldm_registry.travel.references import Reference

WEIGHTS = "diffusion_pytorch_model.safetensors"
slow = pytest.mark.slow
FILES = ("config.json", "contract.json", "README.md", WEIGHTS)
Ldm = Callable[..., Any]


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """An attack is refused before a tensor is read or a component built."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr("ldm_registry.build.load_weights", never)
    monkeypatch.setattr("ldm_registry.build.config_of", never)


def refused(attack: Callable[[], Any], *words: str, exit_code: int = 4) -> LdmError:
    with pytest.raises(LdmError) as caught:
        attack()
    assert caught.value.exit_code == exit_code, str(caught.value)
    for word in words:
        assert word in str(caught.value)
    return caught.value


@pytest.mark.parametrize("file", ["config.json", "contract.json", WEIGHTS])
@pytest.mark.parametrize("at", [40, pytest.param(0, marks=slow), pytest.param(-1, marks=slow)])
def test_a_byte_that_is_flipped_on_the_way_is_refused(toys: Any, file: str, at: int) -> None:
    toys.hub.faults.flip(at % len(toys.files["toy-codec"][file]), file)
    refused(toys.assembled, "expected", "found", file)
    assert held_commits("org/toy-codec") == []
    toys.hub.faults.clear()
    assert obtain(toys.codec).files


@pytest.mark.parametrize("locked", [False, pytest.param(True, marks=slow)])
@pytest.mark.parametrize("file", FILES)
def test_a_byte_that_is_flipped_on_this_machine_is_refused(toys: Any, file: str, locked: bool) -> None:
    spec = toys.spec()
    if locked:
        lock_spec(spec, toys.folder / LOCK)
    path = obtain(toys.codec).folder / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x01" if path.stat().st_size else b"\x01")
    error = refused(toys.assembled, "expected", "found", file)
    assert "again" in str(error.hint)


def test_other_content_under_a_locked_commit_is_refused_before_it_is_fetched(
    toys: Any, tmp_path: Path
) -> None:
    lock_spec(toys.spec(), toys.folder / LOCK)
    _forget(tmp_path)
    files = dict(toys.files["toy-codec"])
    files[WEIGHTS] = files[WEIGHTS][:-1] + b"\x01"
    toys.hub.impersonate("org/toy-codec", toys.codec.commit, files)
    toys.hub.requests.clear()
    refused(toys.assembled, LOCK, "expected", "found", WEIGHTS)
    assert toys.hub.count(path="/resolve/") == 0


@pytest.mark.parametrize("file", ["config.json", *(pytest.param(file, marks=slow) for file in FILES[1:])])
def test_other_content_under_a_locked_commit_is_never_kept(toys: Any, tmp_path: Path, file: str) -> None:
    lock_spec(toys.spec(), toys.folder / LOCK)
    _forget(tmp_path)
    files = dict(toys.files["toy-codec"])
    files[file] = b"\x01" * max(len(files[file]), 1)
    toys.hub.impersonate("org/toy-codec", toys.codec.commit, files)
    refused(toys.assembled, LOCK, file)
    assert held_commits("org/toy-codec") == []


def test_a_lock_that_disagrees_with_what_was_pulled_is_refused(toys: Any) -> None:
    path = toys.folder / LOCK
    lock_spec(toys.spec(), path)
    document = json.loads(path.read_text())
    document["checkpoints"][0]["files"][-1]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    refused(toys.assembled, LOCK, "expected", "found")
    refused(lambda: lock_spec(toys.spec(), path), LOCK)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1, "version": 1}',
        '{"version": 1, "checkpoints": [{"repo": "org/x"}]}',
        '{"version": 1, "checkpoints": [{"repo": "org/x", "commit": "main", "files": []}]}',
        '{"version": 1, "checkpoints": 3}',
        json.dumps(
            {
                "version": 1,
                "checkpoints": [
                    {
                        "repo": "org/x",
                        "commit": "0" * 40,
                        "files": [{"path": "../x", "size": 1, "sha256": "0" * 64}],
                    }
                ],
            }
        ),
    ],
)
def test_a_broken_lock_is_refused(toys: Any, text: str) -> None:
    (toys.folder / LOCK).write_text(text)
    refused(toys.assembled, LOCK)


def test_a_moved_tag_is_refused(toys: Any, ldm: Ldm) -> None:
    assert ldm("pull", "org/toy-codec@v1.0.0").code == 0
    toys.hub.move_tag("org/toy-codec", "v1.0.0", toys.hub.publish("org/toy-codec", {"config.json": b"{}"}))
    ended = ldm("pull", "org/toy-codec@v1.0.0")
    assert ended.code == 4
    assert "tag v1.0.0 has moved" in ended.err
    assert f"hf://{toys.codec.repository}@{toys.codec.commit}" in ended.err


def test_a_moved_tag_changes_nothing_for_a_spec(toys: Any) -> None:
    held = obtain(toys.codec)
    toys.hub.move_tag("org/toy-codec", "v1.0.0", toys.hub.publish("org/toy-codec", {"config.json": b"{}"}))
    assert obtain(toys.codec) == held


@pytest.mark.parametrize("revision", ["main", "v1.0.0", "refs/pr/1", "0123456", "HEAD~1", "A" * 40])
def test_anything_but_a_commit_in_a_spec_is_refused(toys: Any, ldm: Ldm, revision: str) -> None:
    path = toys.folder / "spec.yaml"
    path.write_text(toys.text.replace(toys.codec.commit, revision))
    ended = ldm("check", path)
    assert ended.code == 2
    assert "expected hf://org/name@<40-hex commit>" in ended.err


@pytest.mark.parametrize("locked", [False, True])
def test_a_repository_that_was_made_anew_does_not_serve_an_old_address(
    toys: Any, tmp_path: Path, locked: bool
) -> None:
    if locked:
        lock_spec(toys.spec(), toys.folder / LOCK)
        _forget(tmp_path)
    toys.hub.recreate("org/toy-codec", toys.files["toy-codec"], tag="v1.0.0")
    refused(toys.assembled, f"has no commit {toys.codec.commit}", "expected", "found")


def test_a_repository_that_was_made_anew_is_told_from_the_one_that_was_pulled(toys: Any, ldm: Ldm) -> None:
    assert ldm("pull", "org/toy-codec").code == 0
    toys.hub.recreate("org/toy-codec", toys.files["toy-codec"], tag="v9")
    for word in ("org/toy-codec", "org/toy-codec@v9", "org/toy-codec@main"):
        ended = ldm("pull", word)
        assert ended.code == 4
        assert "not the repository that was pulled before" in ended.err
    assert held_commits("org/toy-codec") == [toys.codec.commit]


def test_a_deleted_repository_does_not_silently_become_the_cache_of_another_commit(toys: Any) -> None:
    obtain(toys.codec)
    del toys.hub.repositories["org/toy-codec"]
    refused(lambda: obtain(Reference("org/toy-codec", "0" * 40)), "does not exist", exit_code=3)


def test_an_answer_for_another_commit_is_refused(toys: Any) -> None:
    def other(document: Any) -> Any:
        return {**document, "sha": "0" * 40}

    toys.hub.faults.edit(other, "/revision/")
    refused(toys.assembled, "answered with another commit")


PATHS = {
    "climbing": "../evil.json",
    "climbing inside": "a/../../evil.json",
    "absolute": "/etc/evil.json",
    "drive": "C:/evil.json",
    "backslash": "a\\..\\evil.json",
    "empty step": "a//b.json",
    "control characters": "a\x1b[31m.json",
    "the notes of git": ".git/config.json",
    "the notes of the client": ".cache/huggingface/download/config.json.metadata",
    "a device": "aux.json",
    "a trailing dot": "config.json.",
    "too long": "a" * 300 + ".json",
    "not printable": "a\u202egnp.json",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    toys: Any, tmp_path: Path, path: str
) -> None:
    toys.hub.faults.listing([listed("config.json"), listed(path)], "org/toy-codec")
    error = refused(toys.assembled, "its listing is not that of a component")
    assert toys.hub.count(path="/resolve/") == 0
    assert str(error).isprintable() or "\x1b" not in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["cache", "project"],
        ["cache", "hf", "project"],
    )


@pytest.mark.parametrize(
    "entries",
    [
        [listed("config.json"), listed("Config.JSON")],
        [listed("config.json"), listed("config.json")],
        [listed("stra\u00dfe.json"), listed("STRASSE.json")],
        [listed("\u00e9.json"), listed("e\u0301.json")],
        [listed("a.json"), listed("a.json/b.json")],
    ],
    ids=["case", "twice", "sharp s", "composed", "file and folder"],
)
def test_paths_that_are_one_file_on_some_disk_are_refused(toys: Any, entries: list[dict[str, Any]]) -> None:
    toys.hub.faults.listing(entries, "org/toy-codec")
    refused(toys.assembled, "its listing is not that of a component")
    assert toys.hub.count(path="/resolve/") == 0


@pytest.mark.parametrize("kind", ["symlink", "submodule", "directory"])
def test_a_link_in_a_listing_is_refused(toys: Any, kind: str) -> None:
    toys.hub.faults.listing([listed("config.json"), listed("weights", kind=kind)], "org/toy-codec")
    refused(toys.assembled, "is a link or a submodule")
    assert toys.hub.count(path="/resolve/") == 0


@pytest.mark.parametrize(
    "entries",
    [
        [listed(f"{index}.json") for index in range(1001)],
        [listed("config.json"), listed(WEIGHTS, size=2**40)],
        [listed("config.json"), *(listed(f"{index}.safetensors", size=2**35) for index in range(9))],
        [listed("config.json", size=2**30)],
        [listed("config.json", size=-1)],
        [listed("config.json", size="9" * 30)],  # type: ignore[arg-type]  # a stranger sends anything
    ],
    ids=["many", "one large", "large altogether", "large config", "negative", "text"],
)
def test_too_many_or_too_large_files_are_refused(toys: Any, entries: list[dict[str, Any]]) -> None:
    toys.hub.faults.listing(entries, "org/toy-codec")
    refused(toys.assembled, "its listing is not that of a component")
    assert toys.hub.count(path="/resolve/") == 0


def test_a_listing_without_end_is_given_up(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_registry.hub.MAX_LISTED", 5)
    toys.hub.page_size = 2
    toys.hub.faults.edit(lambda entries: [*entries, listed(f"{len(entries)}.json")] * 3, "/tree/")
    refused(toys.assembled, "lists more than 5 files")


def test_more_than_was_announced_is_not_taken(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    size = len(toys.files["toy-codec"][WEIGHTS])
    toys.hub.faults.replace(b"x" * 100_000, "/store/")
    error = refused(toys.assembled, f"expected {size}", "found")
    assert int(re.findall(r"found (\d+)", str(error))[0]) < size + 2000
    assert held_commits("org/toy-codec") == []


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_a_digest_that_climbs_leads_nowhere(toys: Any, tmp_path: Path, header: str) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    toys.hub.faults.add(Fault("/resolve/", headers={header: '"../../../../../evil"'}))
    with pytest.raises(LdmError):
        obtain(toys.codec)
    after = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before


@pytest.mark.parametrize("file", ["config.json", "contract.json"])
@pytest.mark.parametrize(
    "key",
    ["trust_remote_code", *(pytest.param(key, marks=slow) for key in ("auto_map", "_trust", "_custom_code"))],
)
def test_a_config_or_contract_that_grants_trust_is_refused(toys: Any, file: str, key: str) -> None:
    files = dict(toys.files["toy-codec"])
    document = json.loads(files[file])
    files[file] = json.dumps({**document, key: True}).encode()
    commit = toys.hub.publish("org/toy-codec", files)
    refused(lambda: obtain(Reference("org/toy-codec", commit)), "asks for trust", key)
    assert held_commits("org/toy-codec") == []


@pytest.mark.parametrize("key", ["trust_remote_code", "trust", "auto_map", "plugins"])
@pytest.mark.parametrize("where", ["top", "stage"])
def test_a_spec_that_grants_trust_is_refused(toys: Any, ldm: Ldm, key: str, where: str) -> None:
    line = f"{key}: true\n"
    text = (
        toys.text + line
        if where == "top"
        else toys.text.replace("use: toy-denoiser", f"use: toy-denoiser, {key}: true")
    )
    (toys.folder / "spec.yaml").write_text(text)
    ended = ldm("check", toys.folder / "spec.yaml")
    assert (ended.code, toys.hub.requests) == (2, [])
    assert key in ended.err


def test_weights_whose_header_lies_are_refused(toys: Any) -> None:
    files = {**toys.files["toy-codec"], WEIGHTS: (2**40).to_bytes(8, "little") + b"{}"}
    commit = toys.hub.publish("org/toy-codec", files)
    refused(lambda: obtain(Reference("org/toy-codec", commit)), "the header should be")
    assert held_commits("org/toy-codec") == []


def test_files_that_are_not_what_the_contract_says_are_refused(toys: Any) -> None:
    commit = toys.hub.publish("org/toy-codec", {"config.json": b'{"channels": 1}'})
    refused(
        lambda: obtain(Reference("org/toy-codec", commit)),
        "is not what its contract says",
        "expected",
        "found",
    )


def test_a_file_that_was_added_on_this_machine_is_refused(toys: Any) -> None:
    folder = obtain(toys.codec).folder
    (folder / "model.safetensors").write_bytes(b"")
    refused(toys.assembled, "model.safetensors: is not part of it")


def test_a_link_in_place_of_a_file_is_refused(toys: Any, tmp_path: Path) -> None:
    path = obtain(toys.codec).folder / WEIGHTS
    copy = tmp_path / "copy"
    os.replace(path, copy)
    path.symlink_to(copy)
    refused(toys.assembled, "expected a file, found a link")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{"])
def test_a_record_that_was_changed_is_refused(toys: Any, text: str) -> None:
    (obtain(toys.codec).folder.parent / "record.json").write_text(text)
    refused(toys.assembled, "no longer what it was")


def test_offline_changes_nothing_about_the_checks(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.spec()
    obtain(toys.denoiser)
    path = obtain(toys.codec).folder / "config.json"
    path.write_bytes(path.read_bytes() + b" ")
    monkeypatch.setenv("LDM_OFFLINE", "1")
    refused(toys.assembled, "config.json", "expected", "found")


def test_all_problems_of_a_listing_are_named_at_once() -> None:
    blob = "0" * 40
    listing = Listing((RemoteFile("../a", 1, blob), RemoteFile("/b", 1, blob), RemoteFile("c", 9, "x")))
    with pytest.raises(IntegrityError) as caught:
        checked_listing(listing, "org/x", Limits(files=2, file_bytes=8, total_bytes=10))
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize("path", ["config.json", "a/b/c.safetensors", "é.json", "a b.txt", ".gitattributes"])
def test_usual_paths_are_let_through(path: str) -> None:
    assert path_problem(path) is None


def _forget(tmp_path: Path) -> None:
    """As on another machine: nothing was pulled there."""
    shutil.rmtree(tmp_path / "cache")
