from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ldm_registry.errors import LdmError, NetworkError, NotFoundError
from ldm_registry.travel.lock import LOCK
from ldm_registry.travel.pull import held_commits, obtain
from ldm_registry.travel.references import Reference

slow = pytest.mark.slow
WEIGHTS = "diffusion_pytorch_model.safetensors"
CHILD = (
    "import sys; from ldm_registry.travel.pull import obtain; "
    "from ldm_registry.travel.references import parse_reference; print(obtain(parse_reference(sys.argv[1])).folder)"
)


def nothing_is_there(toys: Any, tmp_path: Path) -> None:
    """No checkpoint, no part of one, and nothing that the next try could stumble over."""
    assert held_commits(toys.codec.repository) == []
    cache = tmp_path / "cache"
    kept = [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == []


def a_second_try_succeeds(toys: Any) -> None:
    toys.hub.faults.clear()
    held = obtain(toys.codec)
    assert {path: (held.folder / path).read_bytes() for path in held.files} == toys.files["toy-codec"]


def refused(toys: Any, tmp_path: Path, reference: Reference | None = None) -> LdmError:
    with pytest.raises(LdmError) as caught:
        obtain(reference or toys.codec)
    nothing_is_there(toys, tmp_path)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("path", "share"),
    [
        ("/revision/", 0.0),
        pytest.param("/revision/", 0.5, marks=slow),
        pytest.param("/tree/", 0.0, marks=slow),
        ("/tree/", 0.9),
        pytest.param("config.json", 0.0, marks=slow),
        ("config.json", 0.5),
        pytest.param("contract.json", 0.99, marks=slow),
        (WEIGHTS, 0.0),
        pytest.param(WEIGHTS, 0.001, marks=slow),
        (WEIGHTS, 0.3),
        pytest.param(WEIGHTS, 0.999, marks=slow),
    ],
)
def test_a_connection_that_is_always_cut_leaves_nothing(
    toys: Any, tmp_path: Path, path: str, share: float
) -> None:
    size = len(toys.files["toy-codec"].get(path, b"x" * 300))
    toys.hub.faults.cut(int(share * size), f"{path}")
    error = refused(toys, tmp_path)
    assert isinstance(error, NetworkError)
    assert "try again" in str(error)
    a_second_try_succeeds(toys)


@slow
def test_a_connection_may_be_cut_after_any_byte_of_the_weights(toys: Any, tmp_path: Path) -> None:
    for at in range(0, len(toys.files["toy-codec"][WEIGHTS]), 43):
        toys.hub.faults.cut(at, WEIGHTS)
        refused(toys, tmp_path)
        toys.hub.faults.clear()
    a_second_try_succeeds(toys)


@pytest.mark.parametrize(
    "path", [WEIGHTS, *(pytest.param(path, marks=slow) for path in ("/revision/", "/tree/", "config.json"))]
)
def test_a_connection_that_is_cut_once_is_taken_up_again(toys: Any, path: str) -> None:
    toys.hub.faults.cut(5, path, times=1)
    held = obtain(toys.codec)
    assert {name: (held.folder / name).read_bytes() for name in held.files} == toys.files["toy-codec"]


REFUSALS = list(
    product((401, 403, 404, 409, 412, 429, 503), ("/revision/", "/tree/", "/resolve/.*config", "/store/"))
)


@pytest.mark.parametrize(
    ("status", "path"),
    [
        pytest.param(status, path, marks=() if index % 9 == 0 else slow)
        for index, (status, path) in enumerate(REFUSALS)
    ],
)
def test_a_refusal_leaves_nothing_and_says_what_to_do(
    toys: Any, tmp_path: Path, status: int, path: str
) -> None:
    toys.hub.faults.answer(status, path)
    error = refused(toys, tmp_path)
    assert isinstance(error, NotFoundError if status == 404 else NetworkError)
    assert error.exit_code == (3 if status == 404 else 5)
    a_second_try_succeeds(toys)


@pytest.mark.parametrize(
    "path", ["/store/", pytest.param("/revision/", marks=slow), pytest.param("/resolve/", marks=slow)]
)
def test_a_server_that_does_not_answer_in_time_is_given_up(
    toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr("ldm_registry.hub._SHORT_ANSWER_S", 0.05)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.05)
    toys.hub.faults.delay(1.0, path)
    error = refused(toys, tmp_path)
    assert isinstance(error, NetworkError)
    monkeypatch.undo()


@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
def test_a_disk_that_fills_up_leaves_nothing(
    toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    import huggingface_hub.file_download as library

    genuine = library.http_get

    def full(url: str, temp_file: Any, **more: Any) -> None:
        if file in (more.get("displayed_filename") or "") or file in url:
            temp_file.write(b"a few bytes")
            raise OSError(errno.ENOSPC, "No space left on device")
        genuine(url, temp_file, **more)

    with monkeypatch.context() as patched:
        patched.setattr(library, "http_get", full)
        error = refused(toys, tmp_path)
        assert "no space is left" in str(error)
        assert "LDM_CACHE" in str(error)
    a_second_try_succeeds(toys)


def test_a_disk_that_is_full_at_the_last_step_leaves_nothing(
    toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(toys.codec.commit):
            raise OSError(errno.ENOSPC, "No space left on device")
        genuine(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("ldm_registry.travel.pull.os.replace", full)
        error = refused(toys, tmp_path)
        assert "No space left on device" in str(error)
    a_second_try_succeeds(toys)


def test_what_does_not_fit_is_not_begun(toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("ldm_registry.travel.pull._free_bytes", lambda folder: 100)
        error = refused(toys, tmp_path)
        assert "100 are free" in str(error)
        assert toys.hub.count(path="/resolve/") == 0
    a_second_try_succeeds(toys)


def test_a_lock_is_not_written_where_a_pull_failed(
    toys: Any, ldm: Callable[..., Any], tmp_path: Path
) -> None:
    toys.spec()
    toys.hub.faults.answer(503, f"toy-denoiser.*{WEIGHTS}|/store/")
    ended = ldm("lock", toys.folder / "spec.yaml")
    assert ended.code == 5
    assert not (toys.folder / LOCK).exists()
    toys.hub.faults.clear()
    assert ldm("lock", toys.folder / "spec.yaml").code == 0


def child(reference: Reference) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(reference)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@slow
def test_two_processes_that_pull_at_once_both_have_it_and_fetch_it_once(toys: Any) -> None:
    toys.hub.faults.delay(0.2, "/resolve/")
    first, second = child(toys.codec), child(toys.codec)
    ended = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    assert toys.hub.count("GET", "/store/") == 1
    a_second_try_succeeds(toys)


@slow
@pytest.mark.parametrize(
    "path", ["/revision/", "/tree/", "/resolve/.*config", "/resolve/.*contract", "/store/"]
)
def test_a_process_that_is_killed_while_it_pulls_leaves_nothing_in_the_way(toys: Any, path: str) -> None:
    reached = threading.Event()
    toys.hub.faults.call(reached.set, path)
    toys.hub.faults.delay(20, path)
    process = child(toys.codec)
    assert reached.wait(60), process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert held_commits(toys.codec.repository) == []
    a_second_try_succeeds(toys)
    assert list((Path(os.environ["LDM_CACHE"]) / "staging").iterdir()) == []


@slow
def test_a_process_may_be_killed_at_any_time(toys: Any) -> None:
    """However long it ran, the next one finds all of it or nothing, and ends with all of it."""
    for run in range(12):
        process = child(toys.codec)
        try:
            process.communicate(timeout=0.3 + 0.12 * run)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        if held_commits(toys.codec.repository):
            asked = len(toys.hub.requests)
            obtain(toys.codec)
            assert len(toys.hub.requests) == asked
    a_second_try_succeeds(toys)
