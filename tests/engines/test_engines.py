from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ldm_registry.engines import Outcome, engine
from ldm_registry.engines.node_report import check_nodes, differences, node_report
from ldm_registry.errors import NetworkError, PluginError, SpecError

TASKS = ["3", "x", "5"]
OUTCOMES: list[Outcome[str, int]] = [
    Outcome(0, "3", 3),
    Outcome(1, "x", None, "ValueError: invalid literal for int() with base 10: 'x'"),
    Outcome(2, "5", 5),
]


def test_here_a_task_that_fails_is_an_outcome_and_the_others_go_on() -> None:
    with engine() as here:
        assert here.name == "here"
        assert list(here.outcomes(int, TASKS)) == OUTCOMES


def test_an_error_of_ours_is_told_with_its_problems_and_its_hint() -> None:
    with engine("here") as here:
        (outcome,) = here.outcomes(_refuse, ["this"])
    assert outcome.error == "SpecError: not this"
    assert outcome.error_lines == ("it is this", "take that")


def _refuse(task: str) -> None:
    raise SpecError(f"not {task}", [f"it is {task}"], hint="take that")


def test_tasks_are_pulled_as_they_are_done() -> None:
    tasks = iter(range(9))
    with engine() as here:
        next(here.outcomes(abs, tasks))
        assert next(tasks) == 1


@pytest.mark.parametrize(
    ("on", "options", "said"),
    [
        ("rya", {}, "'ray'"),
        (None, {"address": "head:6379"}, "--on ray"),
        ("here", {"workers": 2}, "--on ray"),
        ("ray", {"workers": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(on: str | None, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as raised, engine(on, **options):
        pass
    assert said in str(raised.value)


def test_without_ray_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["ray"] = None
from ldm_registry.engines import engine
from ldm_registry.errors import SpecError
try:
    with engine("ray"):
        raise AssertionError
except SpecError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "ldm-registry[ray]"' in ended.stdout


def test_another_version_on_a_node_is_named_with_both_versions() -> None:
    ours = {"ldm-registry": "1.0", "torch": "2.9", "ldm-dit": "1.1"}
    assert differences(ours, ours) == []
    with pytest.raises(PluginError) as raised:
        check_nodes(
            ours,
            {
                "10.0.0.1": ours,
                "10.0.0.2": {"ldm-registry": "0.9", "torch": "2.9", "ldm-odd": "3"},
                "10.0.0.3": "does not answer",
            },
        )
    assert raised.value.problems == (
        "node 10.0.0.2: ldm-registry is 1.0 here, 0.9 there",
        "node 10.0.0.2: ldm-dit is 1.1 here, not installed there",
        "node 10.0.0.2: ldm-odd is not installed here, 3 there",
        "node 10.0.0.3: does not answer",
    )


def test_a_node_tells_of_this_package_and_its_libraries() -> None:
    assert {"python", "ldm-registry", "torch", "ray"} <= set(node_report())


@pytest.mark.parametrize(
    ("address", "kind"),
    [("127.0.0.1:1", NetworkError), ("nowhere", SpecError), ("ray://127.0.0.1:10001", SpecError)],
)
def test_an_address_where_no_cluster_is_is_an_error_at_once(address: str, kind: type[Exception]) -> None:
    pytest.importorskip("ray")
    with pytest.raises(kind) as raised, engine("ray", address=address):
        pass
    assert address in str(raised.value)


def test_something_else_at_the_address_is_an_error_at_once() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_answer, args=(server,))
        answering.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(NetworkError, match="something else"), engine("ray", address=address):
            pass
        answering.join()


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(64)
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


@pytest.mark.slow
def test_on_ray_the_outcomes_are_those_of_this_process_and_a_worker_that_dies_is_replaced(
    local_ray: Any, tmp_path: Any
) -> None:
    with engine("ray") as workers:
        assert workers.name == "ray"
        assert sorted(workers.outcomes(int, TASKS), key=_index) == OUTCOMES
        done = sorted(workers.outcomes(partial(_dies_once, str(tmp_path)), [1, 2]), key=_index)
        assert [(one.result, one.error) for one in done] == [(1, None), (2, None)]
        (lost,) = workers.outcomes(os._exit, [1])
        assert lost.result is None
        assert "its worker died 3 times" in str(lost.error)
        with pytest.raises(SpecError, match="GPU"):
            next(workers.outcomes(int, TASKS, gpu=True))


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_joined_with_it_and_the_refusal_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    without |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    token = {**without, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64}
    words = [
        "--head",
        "--block",
        "--include-dashboard=false",
        "--num-cpus=1",
        f"--port={address.split(':')[1]}",
    ]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *words]
    head = subprocess.Popen(ray, env=token, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        joined = run_there(address, token)
        refused = run_there(address, without)
    finally:
        head.terminate()
        said = head.communicate(timeout=60)[0]
    assert joined.stdout == "[7]\n", f"{joined.stderr}\n{said}"
    assert f"NetworkError: the Ray cluster at {address} cannot be joined" in refused.stderr
    assert "RAY_AUTH_MODE=token" in refused.stderr


def run_there(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A task on a cluster that may still be starting."""
    code = """
import sys, time
from ldm_registry.engines import engine
from ldm_registry.errors import NetworkError

deadline = time.monotonic() + 60
while True:
    try:
        with engine("ray", address=sys.argv[1]) as workers:
            print([outcome.result for outcome in workers.outcomes(int, ["7"])])
        break
    except NetworkError as error:
        if "no Ray cluster answers" not in error.summary or time.monotonic() > deadline:
            raise
        time.sleep(0.2)
"""
    return subprocess.run(
        [sys.executable, "-c", code, address], env=environment, capture_output=True, text=True, timeout=180
    )


def _index(outcome: Outcome[Any, Any]) -> int:
    return outcome.index


def _dies_once(folder: str, task: int) -> int:
    path = os.path.join(folder, str(task))
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), 9)
    return task
