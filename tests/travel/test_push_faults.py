"""Whatever goes wrong: no version that names less than all, a message that helps, a second try that succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

from ldm_registry.errors import IntegrityError, LdmError, NetworkError
from ldm_registry.hub import Hub
from ldm_registry.travel.publishing import Parcel, publish

TOKEN = "hf_loopbackTokenThatNobodyMaySee"
REPO = "org/toy"
WEIGHTS = "diffusion_pytorch_model.safetensors"
ENDPOINTS = {
    "references": r"/api/models/org/toy/refs",
    "create": r"/api/repos/create",
    "head": r"/api/models/org/toy(/revision/[^/]*)?$",
    "listing": r"/tree/",
    "preupload": r"/preupload/",
    "batch": r"/objects/batch",
    "store": r"/store/.*",
    "verify": r"/verify/",
    "commit": r"/commit/",
    "download": r"/resolve/",
    "tag": r"/tag/",
}
STATUSES = (401, 403, 404, 409, 412, 429, 500, 503)
QUICK = {
    ("create", 403),
    ("store", 503),
    ("commit", 412),
    ("download", 503),
    ("tag", 500),
}


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    weights = tmp_path / WEIGHTS
    weights.write_bytes(bytes(range(256)) * 64)
    files: dict[str, Path | bytes] = {
        "README.md": b"---\nlicense: mit\n---\n# Toy\n",
        "contract.json": b'{"components": {"decoder": "toy"}}',
        WEIGHTS: weights,
    }
    return Parcel("checkpoint", "1.0.0", files, "contract.json", "--version")


def tags(hub: LoopbackHub) -> dict[str, str]:
    return dict(hub.repositories[REPO].tags) if REPO in hub.repositories else {}


def is_whole(hub: LoopbackHub, commit: str, parcel: Parcel) -> bool:
    held = hub.repositories[REPO].commits[commit].files
    sent = {path: it if isinstance(it, bytes) else it.read_bytes() for path, it in parcel.files.items()}
    return {path: file.content for path, file in held.items() if path != ".gitattributes"} == sent


def refused(client: Hub, hub: LoopbackHub, parcel: Parcel) -> LdmError:
    """The error; whatever version is named by now names everything."""
    with pytest.raises(LdmError) as caught:
        publish(client, REPO, parcel)
    assert all(is_whole(hub, commit, parcel) for commit in tags(hub).values())
    assert caught.value.hint
    assert TOKEN not in str(caught.value)
    return caught.value


def a_second_try_succeeds(client: Hub, hub: LoopbackHub, parcel: Parcel) -> None:
    hub.faults.clear()
    done = publish(client, REPO, parcel)
    assert tags(hub) == {"v1.0.0": done.commit}
    assert is_whole(hub, done.commit, parcel)


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [
        pytest.param(name, status, marks=() if (name, status) in QUICK else pytest.mark.slow)
        for name in ENDPOINTS
        for status in STATUSES
    ],
)
def test_an_answer_that_is_an_error(
    endpoint: str, status: int, parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    hub.faults.answer(status, ENDPOINTS[endpoint], Retry_After="0")
    refused(client, hub, parcel)
    if (
        endpoint != "references"
    ):  # without them nobody knows which versions there are; then the last look fails
        assert tags(hub) == {}
    a_second_try_succeeds(client, hub, parcel)


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_trouble_that_passes_is_waited_for(
    status: int, parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    for path in ("/refs", "/tree/", "/resolve/"):
        hub.faults.answer(status, path, times=1, Retry_After="0")
    publish(client, REPO, parcel)
    assert list(tags(hub)) == ["v1.0.0"]


@pytest.mark.parametrize(
    ("endpoint", "after"),
    [
        pytest.param("preupload", 10, marks=pytest.mark.slow),
        pytest.param("batch", 0, marks=pytest.mark.slow),
        pytest.param("store", 0, marks=pytest.mark.slow),
        ("store", 1),
        pytest.param("store", 16383, marks=pytest.mark.slow),
        pytest.param("commit", 0, marks=pytest.mark.slow),
        ("commit", 100),
        pytest.param("tag", 0, marks=pytest.mark.slow),
    ],
)
def test_an_upload_that_is_cut(
    endpoint: str, after: int, parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    hub.faults.cut_upload(after, ENDPOINTS[endpoint])
    error = refused(client, hub, parcel)
    assert (tags(hub), error.exit_code) == ({}, 5)
    a_second_try_succeeds(client, hub, parcel)


@pytest.mark.parametrize("after", [*(pytest.param(count, marks=pytest.mark.slow) for count in (0, 1)), 8000])
def test_a_verification_that_is_cut(after: int, parcel: Parcel, client: Hub, hub: LoopbackHub) -> None:
    hub.faults.cut(after, WEIGHTS)
    error = refused(client, hub, parcel)
    assert (tags(hub), error.exit_code) == ({}, 5)
    assert "no version names them" in str(error)
    a_second_try_succeeds(client, hub, parcel)


@pytest.mark.parametrize("endpoint", [pytest.param("create", marks=pytest.mark.slow), "commit", "tag"])
def test_an_answer_that_is_lost_is_made_up_for(
    endpoint: str, parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    hub.faults.lose_answer(ENDPOINTS[endpoint], times=1)
    refused(client, hub, parcel)
    before = hub.count("POST", ENDPOINTS["commit"])
    a_second_try_succeeds(client, hub, parcel)
    if endpoint != "create":
        assert hub.count("POST", ENDPOINTS["commit"]) == before, "what is there is not sent again"


@pytest.mark.slow
def test_a_slow_server_is_waited_for(parcel: Parcel, client: Hub, hub: LoopbackHub) -> None:
    hub.faults.delay(0.1, "/(commit|store|resolve)/")
    assert publish(client, REPO, parcel).tag == "v1.0.0"


def test_somebody_who_publishes_meanwhile_is_not_overwritten(
    parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    hub.faults.call(lambda: hub.publish(REPO, {"contract.json": b"{}"}), ENDPOINTS["commit"])
    error = refused(client, hub, parcel)
    assert (tags(hub), error.exit_code) == ({}, 5)
    assert "412" in str(error)
    assert hub.repositories[REPO].head.files["contract.json"].content == b"{}"
    a_second_try_succeeds(client, hub, parcel)


def test_a_tag_that_somebody_sets_meanwhile_is_not_moved(
    parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    other = hub.publish(REPO, {"contract.json": b"{}"})
    hub.faults.call(lambda: hub.move_tag(REPO, "v1.0.0", other), ENDPOINTS["tag"])
    with pytest.raises(LdmError):
        publish(client, REPO, parcel)
    assert tags(hub) == {"v1.0.0": other}
    with pytest.raises(IntegrityError, match="with other content"):
        publish(client, REPO, parcel)
    assert tags(hub) == {"v1.0.0": other}


@pytest.mark.parametrize("path", ["README.md", WEIGHTS])
def test_a_hub_that_alters_a_byte_gets_no_version(
    path: str, parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    hub.faults.flip(5, path)
    error = refused(client, hub, parcel)
    assert (tags(hub), error.exit_code) == ({}, 4)
    a_second_try_succeeds(client, hub, parcel)


def test_a_file_that_changes_while_it_is_uploaded_gets_no_version(
    parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    weights = parcel.files[WEIGHTS]
    assert isinstance(weights, Path)
    hub.faults.call(lambda: weights.write_bytes(b"x" * 99), ENDPOINTS["create"])
    with pytest.raises(LdmError):
        publish(client, REPO, parcel)
    assert tags(hub) == {}
    again = Parcel(parcel.what, parcel.version, parcel.files, parcel.mark, parcel.where_version)
    a_second_try_succeeds(client, hub, again)


def test_a_hub_that_leaves_a_file_out_gets_no_version(parcel: Parcel, client: Hub, hub: LoopbackHub) -> None:
    hub.faults.edit(
        lambda said: {
            "files": [{**one, "shouldIgnore": one["path"] == "README.md"} for one in said["files"]]
        },
        ENDPOINTS["preupload"],
    )
    error = refused(client, hub, parcel)
    assert (tags(hub), error.exit_code) == ({}, 4)
    assert "README.md: missing on the Hub" in str(error)


CHILD = """
import sys
from pathlib import Path
from ldm_registry.hub import Hub
from ldm_registry.travel.publishing import Parcel, publish
files = {path.name: path for path in Path(sys.argv[1]).iterdir()}
print(publish(Hub.from_environment(), "org/toy", Parcel("checkpoint", "1.0.0", files, "contract.json", "-")).commit)
"""


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", [*ENDPOINTS, "after the tag"])
def test_a_publication_that_is_killed(
    endpoint: str, parcel: Parcel, client: Hub, hub: LoopbackHub, tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    for path, held in parcel.files.items():
        (folder / path).write_bytes(held if isinstance(held, bytes) else held.read_bytes())
    child: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        child[0].kill()
        child[0].wait()

    if endpoint == "after the tag":
        seen = hub.faults.call(lambda: None, ENDPOINTS["tag"])
        hub.faults.call(lambda: kill() if seen.happened else None, ENDPOINTS["references"], times=None)
    else:
        hub.faults.call(kill, ENDPOINTS[endpoint])
    child.append(
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder)],
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    child[0].communicate(timeout=60)
    assert child[0].returncode == -signal.SIGKILL
    assert all(is_whole(hub, commit, parcel) for commit in tags(hub).values())
    a_second_try_succeeds(client, hub, parcel)


def test_offline_nothing_is_tried(parcel: Parcel, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_OFFLINE", "1")
    with pytest.raises(NetworkError, match="offline"):
        publish(Hub.from_environment(), REPO, parcel)
    assert hub.requests == []


def test_a_server_that_repeats_the_token_does_not_get_it_printed(
    parcel: Parcel, client: Hub, hub: LoopbackHub
) -> None:
    hub.faults.answer(400, ENDPOINTS["commit"], X_Error_Message=f"bad token {TOKEN} given")
    error = refused(client, hub, parcel)
    assert "bad token *** given" in str(error)
    assert TOKEN not in repr(error) + str(error.to_dict())


@pytest.mark.slow
def test_nothing_of_a_verification_is_left(
    parcel: Parcel, client: Hub, hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.faults.cut(10, WEIGHTS)
    refused(client, hub, parcel)
    a_second_try_succeeds(client, hub, parcel)
    assert [path for path in (tmp_path / "cache").rglob("published-*")] == []
    assert all(TOKEN.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
