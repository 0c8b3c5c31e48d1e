"""Shards made by workers on Ray. The driver alone holds the folder and the manifest; workers write shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from ldm_registry.engines.ray_cluster import connected
from ldm_registry.errors import SpecError
from ldm_registry.spec import PipelineSpec
from ldm_registry.streaming.batch_size import Sized
from ldm_registry.streaming.identity import Identity
from ldm_registry.streaming.making import Made, Maker
from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Plan, Shard
from ldm_registry.streaming.shared_folder import marked
from ldm_registry.streaming.whole_file import remove_partial
from ldm_registry.vocabulary import STAGES

if TYPE_CHECKING:
    from ldm_registry.streaming.crew import Crew

IMPATIENCE_S = 30.0
"""After which it is said that no worker has found room."""


@contextmanager
def on_ray(
    spec: PipelineSpec, identity: Identity, folder: Path, *, address: str | None, workers: int | None
) -> Iterator[OnRay]:
    """A maker on Ray; what it started ends with the block. Ray is joined or started as soon as something is missing.

    Args:
        spec: What every worker assembles for itself; its paths mean the same everywhere.
        identity: What its parts hold here.
        folder: Claimed, and the same for all machines.
        address: As `engines.engine`.
        workers: At most; None is one for each GPU, or for each core.

    Raises:
        SpecError: The spec asks for more than the one GPU that a worker has.
    """
    gpu = wants_gpu(spec)
    with ExitStack() as stack:
        yield OnRay(stack, spec, identity, folder.resolve(), address, workers, gpu=gpu)


@final
class OnRay(Maker):
    """Hands shards out to workers. Made by `on_ray`."""

    def __init__(
        self,
        stack: ExitStack,
        spec: PipelineSpec,
        identity: Identity,
        folder: Path,
        address: str | None,
        workers: int | None,
        *,
        gpu: bool,
    ) -> None:
        self._stack, self._spec, self._identity, self._folder = stack, spec, identity, folder
        self._address, self._workers, self._gpu = address, workers, gpu
        self._crew: Crew | None = None
        self._finished: deque[tuple[Shard, Entry]] = deque()
        self._joined: list[Mapping[str, Any]] = []

    def surroundings(self) -> None:
        """Workers tell of theirs when they join."""

    def fitting_batch(self, n: int) -> Sized:
        """As `Maker.fitting_batch`, on the worker that is ready first."""
        crew = self._entered()
        while not (idle := crew.idle()):
            crew.grow(1)
            self._joined += [told.surroundings for told in crew.told() if told.surroundings is not None]
        return crew.fitting_batch(idle[0], n)

    def making(self, plan: Plan, missing: Sequence[Shard]) -> Generator[Made, None, None]:
        """As `Maker.making`; tells of the work about once a second."""
        crew, todo, whole = self._entered(), deque(missing), 0
        waits_until_s: float | None = time.monotonic() + IMPATIENCE_S
        while todo or crew.busy():
            crew.grow(len(todo) + len(crew.busy()))
            for hand in crew.idle()[: len(todo)]:
                crew.give(hand, plan, todo.popleft())
            notes = list[str]()
            for told in crew.told():
                if told.surroundings is not None:
                    self._joined.append(told.surroundings)
                if told.finished is not None:
                    self._finished.append(told.finished)
                    whole += len(told.finished[0].images)
                if told.lost is not None:
                    todo.appendleft(told.lost)
                notes += [told.note] if told.note else []
            if self._joined or crew.busy():
                waits_until_s = None
            elif waits_until_s is not None and time.monotonic() > waits_until_s:
                notes.append("no worker has started yet: the Ray cluster may have no room")
                waits_until_s = None
            surroundings, self._joined = tuple(self._joined), []
            yield Made(whole + sum(hand.made for hand in crew.busy()), tuple(notes), surroundings)

    def finished(self) -> list[tuple[Shard, Entry]]:
        """As `Maker.finished`."""
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def _entered(self) -> Crew:
        """The crew, on a Ray that is joined or started when it is needed for the first time."""
        if self._crew is None:
            from ldm_registry.engines.ray_engine import check_gpus
            from ldm_registry.streaming.crew import Crew, hired

            self._stack.callback(remove_partial, self._folder)  # of workers that end in the middle of a shard
            self._stack.enter_context(connected(self._address, workers=self._workers))
            if self._gpu and self._workers is None:
                check_gpus()
            mark = self._stack.enter_context(marked(self._folder))
            hire = partial(hired, self._spec, self._identity, self._folder, mark, gpu=self._gpu)
            self._crew = self._stack.enter_context(Crew(hire, self._workers, gpu=self._gpu))
        return self._crew


def wants_gpu(spec: PipelineSpec) -> bool:
    """Whether a stage runs on a GPU.

    Args:
        spec: Of a pipeline.

    Raises:
        SpecError: It runs on several, while a worker on Ray has one, which is its first.
    """
    stages: dict[str, Any] = {**{stage.value: getattr(spec, stage) for stage in STAGES}, **spec.conditioners}
    devices = {name: str(stage.device or "cpu") for name, stage in stages.items()}
    numbered = {name: device for name, device in devices.items() if device.partition(":")[2] not in ("", "0")}
    if numbered:
        raise SpecError(
            "a worker on Ray has one GPU, which is its `cuda`",
            [f"{name} is to run on {device}" for name, device in numbered.items()],
            hint="`--device cuda` puts every stage there",
        )
    return any(device.startswith("cuda") for device in devices.values())
