"""Joining a Ray cluster, or starting one on this machine that ends with us."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ldm_registry.engines.extras import missing_extra
from ldm_registry.engines.node_report import check_nodes, node_report
from ldm_registry.errors import LdmError, NetworkError, PluginError, ResourceError, SpecError

ADDRESS = "RAY_ADDRESS"
PROBE_S = 5.0
REPORT_S = 120.0
"""After which a node that has not told its versions counts as one that does not answer: a worker has to start there."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Of a Ray of our own: tasks and results are small, while Ray would take a third of the memory."""
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""The header of an empty frame of HTTP/2, whose fourth byte is its kind."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def _required_ray() -> ModuleType:
    """Ray.

    Raises:
        SpecError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "Ray") from error
    return ray


@contextmanager
def connected(address: str | None = None, *, workers: int | None = None) -> Iterator[None]:
    """Be part of a Ray cluster whose nodes all run what this process runs.

    A Ray that this process has joined already is used and left as it is.

    Args:
        address: `HOST:PORT` of its head, or `auto`; None is RAY_ADDRESS, else a Ray of our own on this machine.
        workers: How many of one core each a Ray of our own has room for at least.

    Raises:
        SpecError: Ray is not installed, or this is no address.
        NetworkError: Nobody answers there.
        PluginError: Ray, Python, this package, a plugin or torch has another version there.
        ResourceError: Ray cannot be started on this machine.
    """
    ray = _required_ray()
    if ray.is_initialized():
        _check_nodes(ray)
        yield
        return
    address = address or os.environ.get(ADDRESS) or "local"
    with _signal_kept():
        if address == "local":
            _start(ray, workers)
        else:
            _join(ray, address)
    try:
        if address != "local":
            _check_nodes(ray)
        yield
    finally:
        with _signal_kept():
            ray.shutdown()


def _start(ray: ModuleType, workers: int | None) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = {} if workers is None else {"num_cpus": max(cores, workers)}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **room, **QUIET)
    except Exception as error:
        ray.shutdown()
        raise ResourceError(
            "Ray could not be started on this machine",
            str(error).strip().splitlines(),
            hint="without --on ray the same command does its work in this process",
        ) from error


def _join(ray: ModuleType, address: str) -> None:
    if address != "auto":
        _probe(address)
    try:
        ray.init(address, **QUIET)
    except Exception as error:
        ray.shutdown()
        raise _refusal(address, error) from error


def _probe(address: str) -> None:
    """Ask whether anybody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise SpecError(
            f"{address!r} is no address of a Ray cluster",
            hint="give HOST:PORT of its head (its port is 6379 unless it was told otherwise), or auto",
        )
    hint = "`ray status` on its head says whether it runs; without an address, Ray is started on this machine"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as connection:
            is_ray = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise NetworkError(f"no Ray cluster answers at {address}: {error}", hint=hint) from error
    if not is_ray:
        raise NetworkError(f"no Ray cluster answers at {address}, but something else", hint=hint)


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a server answers as one of HTTP/2 has to, on which Ray's head speaks (RFC 9113, sections 3.4 and 6.5)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
    frame = b""
    while len(frame) < len(SETTINGS):
        if not (received := connection.recv(len(SETTINGS) - len(frame))):
            return False
        frame += received
    return frame[3] == SETTINGS[3]


def _refusal(address: str, error: Exception) -> LdmError:
    """In our words, what Ray raises where a cluster cannot be joined."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if "ersion mismatch" in str(error):
        return PluginError(
            f"the Ray cluster at {address} runs another version of Ray or Python than this process",
            lines,
            hint="install the same versions here and there",
        )
    return NetworkError(
        f"the Ray cluster at {address} cannot be joined",
        lines or [type(error).__name__],
        hint="start the command on a machine of the cluster (`ray start --address=HOST:PORT` makes this one of them), "
        "and where the cluster asks for a token, with RAY_AUTH_MODE=token and that token in ~/.ray/auth_token",
    )


def _check_nodes(ray: ModuleType) -> None:
    """Let every node tell what it runs."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote, asked = ray.remote(node_report), {}
    for node in _nodes(ray):
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[node] = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=REPORT_S)
    told = {node: _told(ray, report) for node, report in asked.items()}
    alive = _nodes(ray)  # one that has gone meanwhile does no harm
    check_nodes(
        node_report(), {f"{alive[node]} ({node[:8]})": one for node, one in told.items() if node in alive}
    )


def _nodes(ray: ModuleType) -> dict[str, str]:
    """Address of every node by its id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _told(ray: ModuleType, report: Any) -> Mapping[str, str] | str:
    """What a node runs, or why it does not say."""
    try:
        told: Mapping[str, str] = ray.get(report, timeout=0)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(report, force=True)
        return f"does not answer within {REPORT_S:.0f} s"
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if "Error: " in line]
        return f"cannot tell what it runs: {(lines or [type(error).__name__])[-1].strip()}"
    return told


@contextmanager
def _signal_kept() -> Iterator[None]:
    """Meanwhile SIGTERM may be given another handler, which it does not keep: Ray takes it for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, before)
