from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from toy_checkpoints import Folders, toy_folders

from ldm_registry.assembly import load_component
from ldm_registry.hub import Hub
from ldm_registry.travel.pull import obtain
from ldm_registry.travel.references import parse_reference
from ldm_registry.weights import WEIGHTS, read_contract

REPO = "org/toy-codec"
OWN = {".gitattributes"}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return toy_folders(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folders(made: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folders]:
    """The folders, to be changed at will; the toy plugin counts as installed."""
    place = tmp_path / "made"
    shutil.copytree(made.codec.parent, place)
    monkeypatch.syspath_prepend(str(made.metadata))
    monkeypatch.chdir(place)
    yield Folders(*(place / path.name for path in vars(made).values()))
    sys.modules.pop("ldm_toy", None)


Run = Callable[..., Any]


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_what_was_published_is_what_others_pull(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    ended = ldm("push", folders.codec, REPO, "--images", folders.images, "--json")
    assert ended.code == 0, ended.out
    said = ended.document
    repository = hub.repositories[REPO]
    assert repository.tags == {"v1.0.0": said["commit"]}
    assert said["commit"] == repository.branches["main"]
    names = {"README.md", "config.json", "contract.json", WEIGHTS, "round-trip.png"}
    assert set(repository.head.files) == names | OWN
    assert {file["path"] for file in said["files"]} == names
    (line, _) = said["paste"]
    assert line == f"encoder: {{use: toy-codec, checkpoint: hf://{REPO}@{said['commit']}}}"
    held = obtain(parse_reference(f"hf://{REPO}@{said['commit']}"))
    load_component("decoder", held.folder)
    assert (held.folder / WEIGHTS).read_bytes() == (folders.codec / WEIGHTS).read_bytes()
    assert "round-trip.png" not in read_contract(held.folder).files  # type: ignore[union-attr]  # it has one


@pytest.mark.slow
def test_one_commit_holds_it_all(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    assert ldm("push", folders.codec, REPO).code == 0
    assert hub.count("POST", "/commit/") == 1
    assert len(hub.repositories[REPO].commits) == 2, "the Hub's own first one, and ours"


@pytest.mark.slow
def test_the_folder_itself_stays_as_it_is(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    before = {path: path.read_bytes() for path in folders.codec.iterdir()}
    assert ldm("push", folders.codec, REPO, "--images", folders.images).code == 0
    assert {path: path.read_bytes() for path in folders.codec.iterdir()} == before


@pytest.mark.slow
def test_to_publish_again_uploads_nothing(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    first = ldm("push", folders.codec, REPO, "--json").document
    second = ldm("push", folders.codec, REPO, "--json").document
    assert second["commit"] == first["commit"]
    assert (first["uploaded"] != [], second["uploaded"]) == (True, [])
    assert hub.count("POST", "/commit/") == 1


def test_a_version_never_names_another_content(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    first = ldm("push", folders.codec, REPO, "--json").document
    (folders.codec / "README.md").write_text("# Other words\n")
    ended = ldm("push", folders.codec, REPO)
    assert ended.code == 4
    assert "README.md: another content on the Hub" in ended.err
    assert "1.0.1, by --version" in ended.err
    assert hub.count("POST", "/commit/") == 1
    second = ldm("push", folders.codec, REPO, "--version", "1.0.1", "--json").document
    assert hub.repositories[REPO].tags == {"v1.0.0": first["commit"], "v1.0.1": second["commit"]}


@pytest.mark.slow
def test_files_of_an_earlier_version_do_not_stay(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    (folders.codec / "notes.txt").write_text("old")
    assert ldm("push", folders.codec, REPO).code == 0
    (folders.codec / "notes.txt").unlink()
    said = ldm("push", folders.codec, REPO, "--version", "2.0.0", "--json").document
    assert said["removed"] == ["notes.txt"]
    assert "notes.txt" not in hub.repositories[REPO].head.files


def test_a_dry_run_shows_the_tree_and_asks_nobody(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    ended = ldm("push", folders.codec, REPO, "--dry-run", "-o", "look")
    assert ended.code == 0
    size = (folders.codec / WEIGHTS).stat().st_size
    assert f"{size:,}  {WEIGHTS}" in ended.out
    assert "nothing was sent" in ended.out
    assert hub.requests == []
    assert REPO in (folders.codec.parent / "look" / "README.md").read_text()


def test_a_denoiser_is_measured_and_shown_in_its_pipeline(
    folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    ended = ldm("push", folders.denoiser, "org/toy-denoiser", "--spec", folders.spec, "--json")
    assert ended.code == 0, ended.out
    measured = ended.document["measured"]
    assert len(measured) == 9
    assert all(abs(one["found"] - one["recorded"]) < 1e-5 for one in measured)
    files = hub.repositories["org/toy-denoiser"].head.files
    assert files["samples.png"].content.startswith(b"\x89PNG")
    card = files["README.md"].content.decode()
    assert "![Samples](samples.png)" in card
    assert "ldm-latent-4ch-f4" in card


def test_a_denoiser_is_not_shown_with_the_codec_of_another(
    folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    changed(folders.denoiser / "contract.json", lambda said: {**said, "codec_sha256": "0" * 64})
    ended = ldm("push", folders.denoiser, "org/toy-denoiser", "--spec", folders.spec)
    assert (ended.code, hub.requests) == (1, [])
    assert "another codec" in ended.err


def test_a_component_that_does_not_do_what_was_recorded_stays_here(
    folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    def other(said: Any) -> Any:
        said["self_test"]["golden_outputs"][0]["values"][0] += 1.0
        return {**said, "stride": 8}

    changed(folders.codec / "contract.json", other)
    ended = ldm("push", folders.codec, REPO)
    assert (ended.code, hub.requests) == (1, [])
    assert "its_golden_outputs_come_back" in ended.err
    assert "stride is 8, the component has 4" in ended.err


def test_figures_that_cannot_be_found_again_stop_it(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    def better(said: Any) -> Any:
        said["self_test"]["round_trip_psnr_db"] += 1.0
        return said

    changed(folders.codec / "contract.json", better)
    ended = ldm("push", folders.codec, REPO, "--images", folders.images)
    assert (ended.code, hub.requests) == (1, [])
    assert "round-trip PSNR (dB): recorded" in ended.err


@pytest.mark.slow
def test_what_was_never_measured_is_measured_now(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    def silent(said: Any) -> Any:
        del said["self_test"], said["latent_measured"]
        return said

    changed(folders.codec / "contract.json", silent)
    assert ldm("push", folders.codec, REPO, "--images", folders.images).code == 0
    said = json.loads(hub.repositories[REPO].head.files["contract.json"].content)
    assert said["self_test"]["round_trip_psnr_db"] > 0
    assert len(said["self_test"]["golden_outputs"]) == 4
    assert said["latent_measured"]["images"] == 6


def test_weights_that_the_contract_does_not_know_stay_here(
    folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    content = bytearray((folders.codec / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folders.codec / WEIGHTS).write_bytes(content)
    ended = ldm("push", folders.codec, REPO)
    assert ended.code != 0
    assert "contract says" in ended.err
    assert hub.requests == []


def test_a_config_that_names_code_is_refused(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    changed(folders.codec / "config.json", lambda said: {**said, "auto_map": {"AutoModel": "net.Net"}})
    ended = ldm("push", folders.codec, REPO)
    assert (ended.code, hub.requests) == (4, [])
    assert "config.json: auto_map" in ended.err


@pytest.mark.slow
def test_a_folder_without_a_contract_is_refused(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    (folders.codec / "contract.json").unlink()
    ended = ldm("push", folders.codec, REPO)
    assert (ended.code, hub.requests) == (2, [])
    assert "has no contract.json" in ended.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["toy"], "no address"),
        (["org/x@v1.0.0"], "names a revision"),
        ([REPO, "--version", "main branch"], "no version"),
        ([REPO, "--version", "1..0"], "no version"),
        ([REPO, "-o", "somewhere"], "--dry-run alone"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    words: list[str], says: str, folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    ended = ldm("push", folders.codec, *words)
    assert (ended.code, hub.requests) == (2, [])
    assert says in ended.err


@pytest.mark.slow
def test_a_private_repository_is_seen_by_its_owners_alone(
    folders: Folders, hub: LoopbackHub, ldm: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = ldm("push", folders.codec, REPO, "--private", "--json").document["commit"]
    assert hub.repositories[REPO].private
    assert ldm("push", folders.codec, REPO, "--private").code == 0
    assert ldm("pull", f"{REPO}@v1.0.0").code == 0
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    shutil.rmtree(folders.codec.parent.parent / "cache")
    assert ldm("pull", f"{REPO}@v1.0.0").code == 3
    assert Hub.from_environment().search(tags=["ldm-component"]) == []
    assert commit == hub.repositories[REPO].head.oid


def test_what_was_to_be_private_never_goes_to_a_public_repository(
    folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    hub.publish(REPO, {"README.md": b"# here already\n"})
    ended = ldm("push", folders.codec, REPO, "--private")
    assert ended.code == 4
    assert "is public" in ended.err
    assert hub.count("POST", "/(preupload|commit|batch)") == 0


@pytest.mark.slow
def test_a_gated_repository_is_published_to_by_its_owner(
    folders: Folders, hub: LoopbackHub, ldm: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, {"README.md": b"---\nextra_gated_prompt: Please\n---\n"}, gated=True)
    assert ldm("push", folders.codec, REPO).code == 0
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    shutil.rmtree(folders.codec.parent.parent / "cache", ignore_errors=True)
    ended = ldm("pull", f"{REPO}@v1.0.0")
    assert ended.code == 5
    assert "gated" in ended.err


@pytest.mark.slow
def test_a_repository_of_something_else_is_left_alone(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    hub.publish(REPO, {"model.safetensors": b"x", "README.md": b"my life's work"})
    ended = ldm("push", folders.codec, REPO)
    assert ended.code == 4
    assert "model.safetensors" in ended.err
    assert hub.count("POST", "/commit/") == 0


@pytest.mark.slow
def test_it_is_found_by_its_tags(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    assert ldm("push", folders.codec, REPO).code == 0
    (found,) = ldm("search", "--kind", "decoder", "--latent", "4ch-f4", "--json").document["found"]
    assert found["repository"] == REPO
    assert found["license"] == "mit"


def test_a_secret_never_leaves_and_is_not_shown(folders: Folders, hub: LoopbackHub, ldm: Run) -> None:
    token = os.environ["HF_TOKEN"]
    (folders.codec / "README.md").write_text(f"# Card\n\nexport HF_TOKEN={token}\n")
    ended = ldm("push", folders.codec, REPO, "--json")
    assert (ended.code, hub.requests) == (4, [])
    assert ended.document["problems"] == ["README.md:3: what looks like a token of the Hugging Face Hub"]


def test_without_a_token_nothing_is_tried(
    folders: Folders, hub: LoopbackHub, ldm: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ended = ldm("push", folders.codec, REPO)
    assert (ended.code, hub.requests) == (5, [])
    assert "hf auth login" in ended.err


@pytest.mark.slow
def test_in_the_namespace_of_another_nothing_is_published(
    folders: Folders, hub: LoopbackHub, ldm: Run
) -> None:
    ended = ldm("push", folders.codec, "stranger/toy")
    assert ended.code == 5
    assert "403" in ended.err
    assert hub.repositories == {}
