from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub

from ldm_registry.errors import IntegrityError, LdmError, NetworkError, NotFoundError
from ldm_registry.hub import Hub
from ldm_registry.hub_local import front_matter

TOKEN = "hf_loopbackTokenThatNobodyMaySee"
slow = pytest.mark.slow
FILES = {"config.json": b"{}", "part/diffusion_pytorch_model.safetensors": b"w" * 3000}


def test_a_published_commit_is_found_listed_and_fetched(
    hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    assert client.account().namespaces == ("org", "lab")
    client.create_repository("org/x")
    client.create_repository("org/x")
    parent = client.commit_of("org/x")
    commit = client.commit("org/x", FILES, "First", parent=parent)
    client.tag("org/x", "v1.0.0", commit)
    client.tag("org/x", "v1.0.0", commit)
    assert client.commit_of("org/x", "v1.0.0") == commit == client.commit_of("org/x", commit)
    assert client.references("org/x").tags == {"v1.0.0": commit}
    listing = client.files("org/x", commit)
    assert {file.path: file.size for file in listing.files if file.path in FILES} == {
        "config.json": 2,
        "part/diffusion_pytorch_model.safetensors": 3000,
    }
    assert listing.folders == ("part",)
    for path, content in FILES.items():
        assert client.download("org/x", commit, path, tmp_path / "x").read_bytes() == content


def test_the_token_goes_to_the_hub_alone_and_not_to_its_store(
    hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    commit = hub.publish("org/x", FILES)
    client.download("org/x", commit, "part/diffusion_pytorch_model.safetensors", tmp_path)
    hosts = {request.host.split(":")[0]: request.token for request in hub.requests}
    assert hosts == {"127.0.0.1": TOKEN, "localhost": None}


def test_a_stale_parent_commits_nothing(hub: LoopbackHub, client: Hub) -> None:
    parent = hub.publish("org/x", FILES)
    now = hub.publish("org/x", {"other.json": b"{}"})
    with pytest.raises(NetworkError, match="has changed meanwhile"):
        client.commit("org/x", {"config.json": b"[]"}, "Second", parent=parent)
    assert client.commit_of("org/x") == now


def test_a_tag_is_never_moved(hub: LoopbackHub, client: Hub) -> None:
    first = hub.publish("org/x", FILES, tag="v1")
    second = hub.publish("org/x", {"config.json": b"[]"})
    with pytest.raises(IntegrityError, match="never moved"):
        client.tag("org/x", "v1", second)
    assert hub.repositories["org/x"].tags == {"v1": first}


def test_a_search_wants_every_tag_and_turns_pages(hub: LoopbackHub, client: Hub) -> None:
    hub.page_size = 2
    for index in range(5):
        hub.publish(f"org/a{index}", {"README.md": b"---\ntags: [ldm-component, ldm-encoder]\n---\n"})
    hub.publish("org/b", {"README.md": b"---\ntags: [ldm-component]\n---\n"})
    assert [found.repository for found in client.search(tags=["ldm-component", "ldm-encoder"])] == [
        f"org/a{index}" for index in range(5)
    ]
    assert [found.repository for found in client.search("B", ["ldm-component"])] == ["org/b"]
    assert len(client.search(tags=["ldm-component"], limit=3)) == 3


def test_a_private_repository_is_seen_with_its_token_alone(hub: LoopbackHub, client: Hub) -> None:
    commit = hub.publish("org/x", FILES, private=True)
    assert client.commit_of("org/x") == commit
    with pytest.raises(NotFoundError, match="does not exist, or is private"):
        Hub(hub.endpoint, "hf_stranger").commit_of("org/x")
    with pytest.raises(NetworkError, match="401"):
        Hub(hub.endpoint).commit_of("org/x")


def test_a_gated_repository_says_so(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = hub.publish("org/x", FILES, gated=True)
    with pytest.raises(NetworkError, match="gated") as caught:
        Hub(hub.endpoint, "hf_stranger").download("org/x", commit, "config.json", tmp_path)
    assert "accept its terms" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, NetworkError, "hf auth login"),
        pytest.param(403, NetworkError, "the token has to grant this", marks=slow),
        pytest.param(404, NotFoundError, "check the name", marks=slow),
        pytest.param(409, NetworkError, "try again", marks=slow),
        pytest.param(412, NetworkError, "try again", marks=slow),
        (429, NetworkError, "wait a few minutes"),
        pytest.param(500, NetworkError, "try again", marks=slow),
        pytest.param(503, NetworkError, "try again", marks=slow),
    ],
)
def test_a_refusal_says_what_to_do_and_never_the_token(
    hub: LoopbackHub, client: Hub, tmp_path: Path, status: int, kind: type[LdmError], words: str
) -> None:
    commit = hub.publish("org/x", FILES)
    hub.faults.answer(status, X_Error_Message=f"\x1b[31mnot with {TOKEN}")
    for ask in (
        lambda: client.commit_of("org/x"),
        lambda: client.files("org/x", commit),
        lambda: client.download("org/x", commit, "config.json", tmp_path),
        lambda: client.commit("org/x", {"a": b""}, "m", parent=commit),
    ):
        with pytest.raises(kind) as caught:
            ask()
        text = f"{caught.value} {caught.value.to_dict()}"
        assert words in text
        assert TOKEN not in text
        assert "\x1b" not in text


@pytest.mark.parametrize("status", [503, *(pytest.param(status, marks=slow) for status in (429, 500))])
def test_a_passing_fault_is_outlasted(hub: LoopbackHub, client: Hub, tmp_path: Path, status: int) -> None:
    commit = hub.publish("org/x", FILES)
    for path in ("/revision/", "/tree/", "/resolve/"):
        hub.faults.answer(status, path, times=1)
    assert client.commit_of("org/x", commit) == commit
    assert len(client.files("org/x", commit).files) == 3
    assert client.download("org/x", commit, "config.json", tmp_path).read_bytes() == b"{}"


def test_offline_asks_nothing(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LDM_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
        with pytest.raises(NetworkError, match="offline mode is on"):
            Hub.from_environment().commit_of("org/x")
        monkeypatch.delenv(name)
    assert hub.requests == []


def test_nobody_there_is_a_network_error() -> None:
    with pytest.raises(NetworkError, match="could not be reached"):
        Hub("http://127.0.0.1:9").commit_of("org/x")


def test_a_listing_that_never_answers_is_given_up(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish("org/x", FILES)
    monkeypatch.setattr("ldm_registry.hub._LONG_ANSWER_S", 0.05)
    hub.faults.delay(0.3, "/tree/")
    with pytest.raises(NetworkError, match="could not be reached"):
        client.files("org/x", commit)
    for thread in threading.enumerate():
        if thread.name == "hub":
            thread.join()


def test_a_full_disk_is_named(
    hub: LoopbackHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish("org/x", FILES)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(NetworkError, match="no space is left") as caught:
        client.download("org/x", commit, "config.json", tmp_path)
    assert "LDM_CACHE" in str(caught.value)


def test_something_that_is_no_hub_is_named_so(hub: LoopbackHub, client: Hub) -> None:
    hub.publish("org/x", FILES)
    hub.faults.edit(lambda _: ["surprise"], "/api/models/org/x")
    with pytest.raises(NetworkError, match="could not be used"):
        client.commit_of("org/x")


def test_the_front_matter_is_yaml_that_the_hub_reads() -> None:
    text = front_matter({"license": "mit", "tags": ["ldm-component"], "library_name": "ldm-registry"})
    assert "license: mit" in text
    assert "- ldm-component" in text


@pytest.mark.parametrize(
    "path",
    ["/commit/", *(pytest.param(path, marks=slow) for path in ("/preupload/", "/objects/batch", "/store/"))],
)
def test_an_upload_that_is_cut_commits_nothing(hub: LoopbackHub, client: Hub, path: str) -> None:
    parent = hub.publish("org/x", {"config.json": b"[]"})
    hub.faults.cut_upload(3, path)
    with pytest.raises(NetworkError, match="could not be reached"):
        client.commit("org/x", FILES, "Second", parent=parent)
    assert client.commit_of("org/x") == parent
    hub.faults.clear()
    assert client.commit("org/x", FILES, "Second", parent=parent) == client.commit_of("org/x")


def test_an_answer_that_is_lost_leaves_a_commit_that_can_be_seen(hub: LoopbackHub, client: Hub) -> None:
    parent = hub.publish("org/x", {"config.json": b"[]"})
    hub.faults.lose_answer("/commit/", times=1)
    with pytest.raises(NetworkError):
        client.commit("org/x", FILES, "Second", parent=parent)
    assert client.commit_of("org/x") != parent
