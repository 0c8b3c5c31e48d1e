"""What tries to run, or to stay, without consent. Each is refused before anything of it runs or lies in the site."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from loopback_hub.faults import listed
from toy_project import NAME, REPO, Place, offered, toy_project, tree

from ldm_registry.__main__ import main
from ldm_registry.errors import IntegrityError, LdmError, NotFoundError, SpecError
from ldm_registry.registry import Entry, Registry
from ldm_registry.spec import load_spec
from ldm_registry.travel import plugin_store
from ldm_registry.travel.plugin_contents import MAX_FILE_BYTES, MAX_FILES, contents_of
from ldm_registry.travel.plugin_install import install, remove
from ldm_registry.travel.plugin_offer import offer, offer_update
from ldm_registry.travel.plugin_states import states, verified
from ldm_registry.travel.plugin_store import installed
from ldm_registry.travel.plugin_surroundings import claims
from ldm_registry.travel.plugin_text import render_offer
from ldm_registry.travel.sealed_code import BYTE_CODE, require_sealed

PACKAGE = "ldm_toy_travel"
MARKED = b"import os; open(os.environ['LDM_TEST_MARK'], 'w').write('it ran')\n"


def hook(table: str) -> str:
    return f'[tool.hatch.{table}]\npath = "build_code.py"\n'


REFUSED = {
    "byte code beside the source": {f"{PACKAGE}/__pycache__/__init__.cpython-311.pyc": b"\0"},
    "byte code far from it": {"docs/__pycache__/x.cpython-311.pyc": b"\0"},
    "byte code in place of source": {f"{PACKAGE}/extra.pyc": b"\0"},
    "byte code in capitals": {"docs/EXTRA.PYC": b"\0"},
    "a folder of byte code in capitals": {f"{PACKAGE}/__PyCache__/x.txt": b"\0"},
    "native code": {f"{PACKAGE}/fast.so": b"\x7fELF"},
    "a start-up file": {"evil.pth": b"import os"},
    "a pickle": {"checkpoint/model.pt": b"\x80\x04."},
    "a setup script": {"setup.py": MARKED},
    "a setup file": {"setup.cfg": b"[options]\n"},
    "a build script": {"hatch_build.py": MARKED},
    "an unknown kind of file in the package": {f"{PACKAGE}/data.xyz": b"?"},
    "code that cannot be parsed": {f"{PACKAGE}/odd.py": b"def ("},
    "code that is too deep to parse": {f"{PACKAGE}/odd.py": b"-" * 100_000 + b"1"},
    "code in another encoding": {f"{PACKAGE}/odd.py": b"# coding: utf-7\n+AGEAYgBj-\n"},
    "code with a zero byte": {f"{PACKAGE}/odd.py": b"a = 1\0\n"},
    "code that reads otherwise than it runs": {f"{PACKAGE}/odd.py": "x = 'a\u202e b'\n".encode()},
    "a file that is too large": {f"{PACKAGE}/big.json": b" " * (MAX_FILE_BYTES + 1)},
    "too many files": {f"{PACKAGE}/n{i}.txt": b"" for i in range(MAX_FILES)},
    "a manifest that is too large": {"pyproject.toml": b"#" * 300_000},
}
MANIFESTS = {
    "a build hook": toy_project(more=hook("build.hooks.custom")),
    "a build hook of the wheel": toy_project(more=hook("build.targets.wheel.hooks.custom")),
    "a metadata hook": toy_project(more=hook("metadata.hooks.custom")),
    "files from elsewhere": toy_project(
        more='[tool.hatch.build.targets.wheel.force-include]\n"/etc" = "x"\n'
    ),
    "a command": toy_project(more='[project.scripts]\npython = "ldm_toy_travel:run"\n'),
    "another program's entry point": toy_project(
        more='[project.entry-points.pytest11]\nx = "ldm_toy_travel"\n'
    ),
    "an entry point into Python": toy_project(module="os"),
    "an entry point into another library": toy_project(module="torch.hub"),
    "an entry point into the registry": toy_project(module="ldm_registry.hub"),
    "an entry point that is nowhere": toy_project(module="ldm_toy_travel.nowhere"),
    "a package that stands in for a library": toy_project(module="torch", package="torch"),
    "a package that stands in for Python's": toy_project(module="json", package="json"),
    "a package that Python starts with": toy_project(module="sitecustomize", package="sitecustomize"),
    "a package that pytest starts with": toy_project(module="conftest", package="conftest"),
    "a package that stands in for the registry": toy_project(module="ldm_registry", package="ldm_registry"),
}
for name, (old, new) in {
    "a build backend of its own": ('build-backend = "h', 'backend-path = ["."]\nbuild-backend = "h'),
    "a computed version": ('description = "A toy"', 'description = "A toy"\ndynamic = ["readme"]'),
    "the name of a library": ('name = "ldm-toy-travel"', 'name = "Huggingface_Hub"'),
}.items():
    changed = toy_project()["pyproject.toml"].decode().replace(old, new)
    assert new in changed
    MANIFESTS[name] = {**toy_project(), "pyproject.toml": changed.encode()}


@pytest.mark.parametrize("files", REFUSED.values(), ids=REFUSED)
def test_files_that_run_or_hide_code_are_refused(
    hub: LoopbackHub, place: Place, files: dict[str, bytes]
) -> None:
    hub.publish(REPO, {**toy_project(), **files}, tag="v1.0.0")
    with pytest.raises(IntegrityError):
        place.offer()
    assert place.is_empty


@pytest.mark.parametrize("files", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_asks_for_more_than_a_plugin_has_is_refused_unread_code(
    hub: LoopbackHub, place: Place, files: dict[str, bytes]
) -> None:
    hub.publish(REPO, files, tag="v1.0.0")
    with pytest.raises(IntegrityError):
        place.offer()
    assert place.is_empty
    if "Huggingface" not in files["pyproject.toml"].decode():
        assert hub.count(path=r"/resolve/.*\.py$") == 0


@pytest.mark.parametrize(
    "entries",
    [
        [listed("../../escaped.py")],
        [listed("/etc/cron.d/x")],
        [listed("ldm_x\\..\\..\\x.py")],
        [listed("a.py"), listed("A.py")],
        [listed("linked", kind="directory")],
        [listed("pyproject.toml", size=2**62)],
        [listed(f"{i}.txt") for i in range(1001)],
    ],
    ids=["climbing", "absolute", "backslash", "case", "link", "too large", "too many"],
)
def test_a_hostile_listing_is_refused_before_a_byte_is_fetched(
    hub: LoopbackHub, place: Place, entries: list[dict[str, object]]
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    hub.faults.listing([listed("pyproject.toml"), *entries])
    with pytest.raises(IntegrityError):
        place.offer()
    assert hub.count(path="/resolve/") == 0
    assert place.is_empty


def test_a_component_of_another_plugin_cannot_be_claimed(
    hub: LoopbackHub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    folder = place.install().folder
    monkeypatch.syspath_prepend(str(folder))
    thief = toy_project(package="ldm_thief", module="ldm_thief")
    thief["pyproject.toml"] = thief["pyproject.toml"].replace(b"ldm-toy-travel", b"ldm-thief")
    hub.publish("stranger/ldm-thief", thief, tag="v1.0.0")
    with pytest.raises(IntegrityError, match=r"scheduler\.toy-travel, which is ldm-toy-travel's"):
        place.offer(repository="stranger/ldm-thief")
    thief = toy_project(point="scheduler.thief")
    thief["pyproject.toml"] = thief["pyproject.toml"].replace(b"ldm-toy-travel", b"ldm-thief")
    hub.publish("stranger/ldm-thief", thief, tag="v1.0.1")
    with pytest.raises(IntegrityError, match="would stand in for one that is there: ldm-toy-travel"):
        place.offer("v1.0.1", "stranger/ldm-thief")
    assert not place.mark.exists()


def test_every_claim_on_what_is_anothers_is_named() -> None:
    contents = contents_of(*manifest_and_sizes(toy_project()), "x")
    mine = Entry("scheduler", "toy-travel", "m", "LDM_toy.travel", "1")
    theirs = Entry("scheduler", "toy-travel", "m", "ldm-other", "1")
    assert claims(contents, [mine]) == []
    assert claims(contents, [mine, theirs]) == ["it declares scheduler.toy-travel, which is ldm-other's"]


def manifest_and_sizes(files: dict[str, bytes]) -> tuple[bytes, dict[str, int]]:
    return files["pyproject.toml"], {path: len(content) for path, content in files.items()}


def test_a_name_that_is_installed_from_elsewhere_cannot_be_taken(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    before = place.install()
    hub.publish("stranger/ldm-toy-travel", toy_project("9.0.0", 666), tag="v1.0.0")
    with pytest.raises(IntegrityError, match="something of that name is installed"):
        place.offer(repository="stranger/ldm-toy-travel")
    assert installed(place.site) == [before]


@pytest.mark.parametrize("path", ["pyproject.toml", f"{PACKAGE}/__init__.py", f"{PACKAGE}/deep/table.json"])
def test_a_flipped_byte_on_the_way_is_refused(hub: LoopbackHub, place: Place, path: str) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    hub.faults.flip(1, f"/resolve/.*{path}")
    with pytest.raises(IntegrityError, match="did not arrive"):
        place.offer()
    assert place.is_empty
    hub.faults.clear()
    place.install()


def test_a_moved_tag_is_refused_whatever_is_asked_for(hub: LoopbackHub, place: Place) -> None:
    first = hub.publish(REPO, toy_project(), tag="v1.0.0")
    before = place.install()
    hub.move_tag(REPO, "v1.0.0", hub.publish(REPO, toy_project("1.0.0", 666)))
    for attempt in (
        lambda: offer(place.client, f"hf://{REPO}@v1.0.0", place.site, place.lock),
        lambda: offer_update(place.client, NAME, None, place.site, place.lock),
        lambda: offer_update(place.client, NAME, "main", place.site, place.lock),
    ):
        with pytest.raises(IntegrityError, match=r"the tag v1\.0\.0 was moved"):
            attempt()
    assert installed(place.site) == [before]
    locked = place.lock.read_text()
    remove(NAME, place.site, place.lock)
    place.lock.write_text(locked)  # another machine, with the lock alone
    with pytest.raises(IntegrityError, match="was moved"):
        place.offer()
    assert place.offer(first).commit == first


@pytest.mark.parametrize("only_locked", [False, True])
def test_a_repository_that_somebody_else_made_anew_is_refused(
    hub: LoopbackHub, place: Place, only_locked: bool
) -> None:
    first = hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.install()
    if only_locked:
        locked = place.lock.read_text()
        remove(NAME, place.site, place.lock)
        place.lock.write_text(locked)
    hub.recreate(REPO, toy_project("1.0.0", 666), tag="v1.0.0")
    for revision in ("v1.0.0", "main", first):
        with pytest.raises(IntegrityError, match="not the repository that it was"):
            offer(place.client, f"hf://{REPO}@{revision}", place.site, place.lock)
    if not only_locked:
        with pytest.raises(IntegrityError, match="not the repository that it was"):
            offer_update(place.client, NAME, None, place.site, place.lock)
    remove(NAME, place.site, place.lock)
    assert place.offer().review.files, "after a deliberate removal it is a new plugin like any other"


def test_other_files_under_the_locked_commit_are_refused(hub: LoopbackHub, place: Place) -> None:
    commit = hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.install()
    locked = place.lock.read_text()
    remove(NAME, place.site, place.lock)
    place.lock.write_text(locked)
    hub.impersonate(REPO, commit, toy_project("1.0.0", 666))
    with pytest.raises(IntegrityError, match="code digest"):
        place.offer()


def test_the_lock_of_a_project_pins_what_is_installed_with_it_and_grants_no_trust(
    hub: LoopbackHub, place: Place
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.install()
    locked = place.lock.read_text()
    remove(NAME, place.site, place.lock)
    place.lock.write_text(locked)
    found = place.offer()
    with pytest.raises(IntegrityError, match="nobody consented"):
        install(found, None, place.site, place.lock)
    hub.publish(REPO, toy_project("1.1.0", 43), tag="v1.1.0")
    with pytest.raises(IntegrityError, match=r"is not the ldm-toy-travel that .*ldm\.lock names"):
        place.offer("v1.1.0")
    assert tree(place.site) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [("digest", "sha256:" + "0" * 64), ("commit", "main"), ("distribution", "../x"), ("trust", True)],
)
def test_a_lock_that_was_tampered_with_is_refused(
    hub: LoopbackHub, place: Place, key: str, value: object
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    place.put(offered(toy_project()))
    document = json.loads(place.lock.read_text())
    document["plugins"][0][key] = value
    place.lock.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="is broken"):
        place.offer()


def test_without_a_terminal_only_the_exact_digest_installs(
    hub: LoopbackHub, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    monkeypatch.setattr(plugin_store, "environment_site", lambda: place.site)
    digest = place.offer().digest
    words = ["plugin", "install", f"hf://{REPO}@v1.0.0"]
    reading, writing = os.pipe()
    os.write(writing, f"{NAME}\nyes\n{NAME}\n".encode())
    os.close(writing)
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert main(words) == 4, "what is piped in is not typed"
        other = digest[:-1] + ("0" if digest[-1] != "0" else "1")
        assert main([*words, "--trust-code", other]) == 4
        asked = len(hub.requests)
        for wrong in (digest.removeprefix("sha256:"), "true"):
            assert main([*words, "--trust-code", wrong]) == 2
        monkeypatch.setenv("LDM_NO_REMOTE_CODE", "1")
        for more in (["--trust-code", digest], ["--dry-run"]):
            assert main([*words, *more]) == 4
        assert main(["plugin", "update", NAME, "--trust-code", digest]) == 4
        assert len(hub.requests) == asked, "it was not even asked"
        assert place.is_empty
        monkeypatch.setenv("LDM_NO_REMOTE_CODE", "0")
        assert main([*words, "--trust-code", digest]) == 0
    assert not place.mark.exists()
    capsys.readouterr()


def test_consent_to_one_plugin_is_none_to_another(hub: LoopbackHub, place: Place) -> None:
    trusted, other = offered(toy_project()), offered(toy_project(answer=43))
    with pytest.raises(IntegrityError, match="is not the code that is trusted"):
        install(other, trusted.digest, place.site, place.lock)
    moved = {**toy_project(), f"{PACKAGE}/other.py": toy_project()[f"{PACKAGE}/__init__.py"]}
    del moved[f"{PACKAGE}/deep/__init__.py"]
    assert offered(moved).digest != trusted.digest
    assert place.is_empty


def test_remote_code_that_became_forbidden_after_the_offer_is_not_installed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_NO_REMOTE_CODE", "yes")
    with pytest.raises(IntegrityError, match="LDM_NO_REMOTE_CODE"):
        place.put(offered(toy_project()))
    assert place.is_empty


@pytest.mark.parametrize(
    "claim", ["trust_remote_code: true\n", "trust_code: 'sha256:00'\n", "plugins: [hf://org/x@v1]\n"]
)
def test_a_spec_cannot_grant_trust(tmp_path: Path, claim: str) -> None:
    spec = tmp_path / "spec.yaml"
    stage = "{use: identity, config: {}}"
    text = f"version: 1\nimage: {{channels: 3, size: 16}}\nencoder: {stage}\ndenoiser: {stage}\nscheduler: {stage}\n"
    spec.write_text(f"{text}decoder: {stage}\n{claim}")
    with pytest.raises(SpecError, match=claim.partition(":")[0]):
        load_spec(spec)
    inside = stage.replace("config: {}", claim.strip())
    spec.write_text(f"{text}decoder: {inside}\n")
    with pytest.raises(SpecError, match=claim.partition(":")[0]):
        load_spec(spec)


def test_a_manifest_cannot_grant_trust(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, toy_project(more="[tool.ldm]\ntrust-code = true\nallow-missing = true\n"), tag="v1.0.0")
    found = place.offer()
    with pytest.raises(IntegrityError, match="nobody consented"):
        install(found, None, place.site, place.lock)
    assert place.is_empty


def test_what_a_stranger_wrote_cannot_steer_the_terminal(place: Place) -> None:
    files = toy_project()
    hostile = "A toy\\u001b]0;owned\\u0007\\u202e\\nInstalled: safe"
    files["pyproject.toml"] = files["pyproject.toml"].replace(b"A toy", hostile.encode())
    files[f"{PACKAGE}/__init__.py"] += b"import os as \xd0\xbes\neval('\x1b[2J')\n"
    text = render_offer(offered(files))
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert not any(line.startswith("Installed: safe") for line in text.splitlines())


ALTERATIONS = {
    "one flipped byte": lambda folder: flip(folder / PACKAGE / "__init__.py"),
    "one flipped byte of the record": lambda folder: flip(folder / "ldm-plugin.json"),
    "another entry point": lambda folder: flip(next(folder.glob("*.dist-info")) / "entry_points.txt"),
    "a file more": lambda folder: (folder / PACKAGE / "more.py").write_bytes(MARKED),
    "a module beside the package": lambda folder: (folder / "torch.py").write_bytes(MARKED),
    "a file less": lambda folder: (folder / PACKAGE / "deep/table.json").unlink(),
    "a link": lambda folder: linked(folder / PACKAGE / "__init__.py"),
    "poisoned byte code": lambda folder: poisoned(folder / PACKAGE),
    "byte code in place of source": lambda folder: (folder / PACKAGE / "deep.pyc").write_bytes(b"\0"),
}


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])


def linked(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere.py"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def poisoned(package: Path) -> None:
    (package / BYTE_CODE).unlink()
    (package / BYTE_CODE).mkdir()
    (package / BYTE_CODE / "__init__.cpython-311.pyc").write_bytes(b"\0" * 32)


@pytest.mark.parametrize("alteration", ALTERATIONS.values(), ids=ALTERATIONS)
def test_installed_code_that_was_altered_is_reported_and_never_imported(
    place: Place, monkeypatch: pytest.MonkeyPatch, alteration: object
) -> None:
    folder = place.put(offered(toy_project())).folder
    assert folder is not None
    monkeypatch.syspath_prepend(str(folder))
    require_sealed(PACKAGE)
    assert verified([NAME], place.site, place.lock)[0].problems == ()
    assert callable(alteration)
    alteration(folder)
    assert verified([NAME], place.site, place.lock)[0].problems
    with pytest.raises(IntegrityError, match="its code is not used") as caught:
        Registry.discover().get("scheduler", "toy-travel")
    assert caught.value.exit_code == 4
    assert not place.mark.exists()
    with pytest.raises(IntegrityError):
        offer_update(place.client, NAME, None, place.site, place.lock)
    assert remove(NAME, place.site, place.lock) == NAME


def test_the_registry_imports_what_is_sealed_and_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.put(offered(toy_project())).folder
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(LdmError, match="does not return what its entry points declare"):
        Registry.discover().get("scheduler", "toy-travel")
    assert place.mark.exists()


def test_a_folder_that_hides_an_installed_plugin_is_reported(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = place.put(offered(toy_project())).folder
    monkeypatch.syspath_prepend(str(folder))
    (tmp_path / "first" / PACKAGE).mkdir(parents=True)
    (tmp_path / "first" / PACKAGE / "__init__.py").write_bytes(MARKED)
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    (state,) = verified([NAME], place.site, place.lock)
    assert "found elsewhere first" in state.problems[0]


def test_a_switch_that_leads_out_of_the_store_is_reported_and_followed_by_nobody(
    place: Place, tmp_path: Path
) -> None:
    place.put(offered(toy_project()))
    switch = place.site / f"ldm-plugin-{NAME}.pth"
    for line in ("import os\n", f"{tmp_path}\n", "ldm-plugins.d/../..\n", switch.read_text() * 2):
        switch.write_text(line)
        (state,) = (one for one in states(place.site, place.lock) if one.distribution == NAME)
        assert state.problems
    with pytest.raises(IntegrityError):
        offer_update(place.client, NAME, None, place.site, place.lock)


def test_a_plugin_moved_under_another_seal_is_not_taken_for_it(place: Place) -> None:
    folder = place.put(offered(toy_project())).folder
    assert folder is not None
    false = folder.with_name("0" * 64)
    shutil.move(folder, false)
    (place.site / f"ldm-plugin-{NAME}.pth").write_text(f"ldm-plugins.d/{NAME}/{false.name}\n")
    (one,) = installed(place.site)
    assert one.seal is None
    assert "expected 0000" in " ".join(one.problems)


def test_a_checkpoint_is_no_plugin(hub: LoopbackHub, place: Place) -> None:
    hub.publish(REPO, {"config.json": b"{}"}, tag="v1.0.0")
    with pytest.raises(NotFoundError, match="ldm pull"):
        place.offer()
