"""Tasks on the workers of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, final

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from ldm_registry.engines.node_report import check_nodes, node_report
from ldm_registry.engines.outcome import Engine, Outcome, Result, Task, attempt, in_words
from ldm_registry.errors import SpecError

TRIES = 3
DEATHS = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, RayActorError)
"""What Ray raises where a worker has ended in the middle of a task."""
POLL_S = 1.0
AHEAD = 2
"""Tasks handed out for each worker: one to do and one that waits, so that a cluster that can grow sees reason to."""


@final
class RayEngine(Engine):
    """Tasks on a Ray that this process has joined.

    Args:
        workers: Tasks at once; None is as many as there is room for, also on nodes that come later.
    """

    name = "ray"

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers

    def outcomes(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, gpu: bool = False
    ) -> Iterator[Outcome[Task, Result]]:
        """As `Engine.outcomes`."""
        if gpu:
            check_gpus()
        remote: Any = ray.remote(_attempt_alike).options(
            num_cpus=1, num_gpus=int(gpu), max_retries=0, scheduling_strategy="SPREAD"
        )
        pending, again = enumerate(tasks), deque[_Try[Task]]()
        running: dict[Any, _Try[Task]] = {}
        versions = node_report()
        try:
            while True:
                for one in _next(pending, again, self._room(gpu=gpu) - len(running)):
                    running[remote.remote(versions, function, one.task)] = one
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
                for ref in ready:
                    one = running.pop(ref)
                    if (outcome := _outcome(one, ref)) is not None:
                        yield outcome
                    else:
                        again.append(_Try(one.index, one.task, one.tries + 1))
        finally:
            for ref in running:
                ray.cancel(ref, force=True)

    def _room(self, *, gpu: bool) -> int:
        return self._workers or max(1, AHEAD * capacity(gpu=gpu))


@dataclass(frozen=True, slots=True)
class _Try(Generic[Task]):
    index: int
    task: Task
    tries: int = 1


def _next(pending: Iterator[tuple[int, Task]], again: deque[_Try[Task]], room: int) -> Iterator[_Try[Task]]:
    """So many tasks: those whose worker died first."""
    for _ in range(room):
        if again:
            yield again.popleft()
        elif (item := next(pending, None)) is not None:
            yield _Try(*item)
        else:
            return


def _outcome(one: _Try[Task], ref: Any) -> Outcome[Task, Any] | None:
    """What became of a try; None where another one is due."""
    try:
        return Outcome(one.index, one.task, *ray.get(ref))
    except DEATHS as error:
        if one.tries < TRIES:
            return None
        first, lines = in_words(error)
        return Outcome(one.index, one.task, None, f"its worker died {TRIES} times, at last of {first}", lines)
    except RayTaskError as error:  # before or after the function, such as a result that cannot be pickled
        return Outcome(one.index, one.task, None, *in_words(error.cause or error))
    except RayError as error:
        return Outcome(one.index, one.task, None, *in_words(error))


def _attempt_alike(
    versions: Mapping[str, str], function: Callable[[Task], Result], task: Task
) -> tuple[Result | None, str | None, tuple[str, ...]]:
    """One task in a worker, also on a node that has joined since the nodes were compared."""
    check_nodes(versions, {node_address(): _own_report()})
    return attempt(function, task)


@cache
def _own_report() -> Mapping[str, str]:
    """Of a worker, read once: it takes longer than many a task."""
    return node_report()


def capacity(*, gpu: bool) -> int:
    """Workers that the cluster has room for at this moment: one for each GPU, or for each core.

    Args:
        gpu: Whether a worker takes a GPU.
    """
    resources: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return int(resources.get("GPU" if gpu else "CPU", 0))


def node_address() -> str:
    """Of the node that this process runs on."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray has no types here


def check_gpus() -> None:
    """Refuse to wait for a GPU for ever.

    Raises:
        SpecError: No node has one.
    """
    if not capacity(gpu=True):
        raise SpecError(
            "work is to be done on a GPU, and no node of the Ray cluster has one",
            hint="`--device cpu` does it on the CPU; a node tells Ray of its GPUs with `ray start --num-gpus=N`",
        )
