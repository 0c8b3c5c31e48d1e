"""Workers on Ray that make shards: as many as there is room for, replaced when they die."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import ray
from ray.exceptions import RayError, RayTaskError

from ldm_registry.engines.node_report import node_report
from ldm_registry.engines.outcome import in_words
from ldm_registry.engines.ray_engine import DEATHS, POLL_S, TRIES, capacity
from ldm_registry.errors import ResourceError
from ldm_registry.spec import PipelineSpec
from ldm_registry.streaming.batch_size import Sized
from ldm_registry.streaming.identity import Identity
from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Plan, Shard
from ldm_registry.streaming.shard_worker import ShardWorker

GO_ON = "finished shards are whole, and the same command goes on from them"


@dataclass(slots=True)
class Hand:
    """One worker.

    Attributes:
        actor: As Ray calls it.
        begun: What it will tell when it is ready; None from then on.
        shard: What it makes; None while it is idle.
        words: Generator of what it tells about that.
        made: Images of that shard so far.
    """

    actor: Any
    begun: Any
    shard: Shard | None = None
    words: Any = None
    made: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """What happened to a worker.

    Attributes:
        surroundings: It is ready: its versions and machine.
        finished: A shard that it has finished.
        lost: The shard that was at hand when it died.
        note: How it died.
    """

    surroundings: Mapping[str, Any] | None = None
    finished: tuple[Shard, Entry] | None = None
    lost: Shard | None = None
    note: str | None = None


@final
class Crew:
    """Workers, to be entered; they end with the block.

    Args:
        hire: Starts a worker: the actor, and what it will tell when it is ready.
        most: Workers; None is as many as there is room for.
        gpu: Whether a worker takes a GPU, else a core.
    """

    def __init__(self, hire: Callable[[], tuple[Any, Any]], most: int | None, *, gpu: bool) -> None:
        self._hire, self._most, self._gpu = hire, most, gpu
        self._hands: list[Hand] = []
        self._deaths: dict[int, int] = {}
        self._stillborn = 0
        self._next_look_s, self._room = 0.0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in self._hands:
            _end(hand)

    def busy(self) -> list[Hand]:
        """Those that make a shard."""
        return [hand for hand in self._hands if hand.shard is not None]

    def idle(self) -> list[Hand]:
        """Those that are ready and have nothing to do."""
        return [hand for hand in self._hands if hand.begun is None and hand.shard is None]

    def grow(self, wanted: int) -> None:
        """Start workers, also on nodes that have come since.

        Args:
            wanted: Shards that are to be made.
        """
        if time.monotonic() >= self._next_look_s:
            self._room = self._most or max(1, capacity(gpu=self._gpu))
            self._next_look_s = time.monotonic() + POLL_S
        while len(self._hands) < min(wanted, self._room):
            self._hands.append(Hand(*self._hire()))

    def give(self, hand: Hand, plan: Plan, shard: Shard) -> None:
        """Let a worker make a shard.

        Args:
            hand: An idle one.
            plan: Which images belong together.
            shard: What to make.
        """
        hand.shard, hand.made = shard, 0.0
        hand.words = hand.actor.make.options(num_returns="streaming").remote(plan, shard.number)

    def fitting_batch(self, hand: Hand, n: int) -> Sized:
        """How many images a worker makes at once, as it measures it.

        Args:
            hand: An idle one.
            n: Images that are wanted.

        Raises:
            ResourceError: There is no memory for a single image, or the worker dies of the attempt.
        """
        try:
            sized: Sized = ray.get(hand.actor.fitting_batch.remote(n))
        except RayTaskError as error:
            raise (error.cause or error) from None
        except RayError as error:
            hint = "give a batch (--batch)"
            raise ResourceError("a worker has died while it measured a batch", _lines(error), hint) from error
        return sized

    def told(self) -> Iterator[Told]:
        """What has happened to workers since; waits a little where nothing has.

        Raises:
            ResourceError: Workers die of the same shard, or before they are ready, again and again.
            LdmError: What a worker raised.
        """
        waiting = {hand.begun or hand.words: hand for hand in self._hands if hand.begun or hand.words}
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
        if ready and len(waiting) > 1:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for ref in ready:
            hand = waiting[ref]
            try:
                told = _heard(hand, ray.get(hand.begun or next(hand.words)))
            except RayTaskError as error:
                raise (error.cause or error) from None
            except DEATHS as error:
                told = self._mourned(hand, error)
            except RayError as error:
                raise ResourceError("Ray has failed", _lines(error), hint=GO_ON) from error
            if told is not None:
                self._stillborn = 0 if told.surroundings is not None else self._stillborn
                yield told

    def _mourned(self, hand: Hand, error: RayError) -> Told:
        """Strike a dead worker off; raise where its death was not the first of its kind."""
        self._hands.remove(hand)
        _end(hand)
        if hand.shard is None:
            self._stillborn += 1
            times, what = self._stillborn, "workers have died before they were ready"
        else:
            times = self._deaths[hand.shard.number] = self._deaths.get(hand.shard.number, 0) + 1
            what = f"{hand.shard.file} is given up: its worker has died"
        if times >= TRIES:
            raise ResourceError(
                f"{what}, {times} times",
                _lines(error),
                hint=f"{GO_ON}; a worker that the system kills took too much memory: fewer --workers or a smaller "
                "--batch need less",
            ) from error
        again = f"; {hand.shard.file} is made by another" if hand.shard is not None else ""
        return Told(lost=hand.shard, note=f"a worker has died: {in_words(error)[0]}{again}")


def hired(spec: PipelineSpec, identity: Identity, folder: Path, mark: str, *, gpu: bool) -> tuple[Any, Any]:
    """Start a worker.

    Args:
        spec: As `ShardWorker`.
        identity: As `ShardWorker.begin`.
        folder: As `ShardWorker`.
        mark: As `ShardWorker.begin`.
        gpu: Whether it takes a GPU.

    Returns:
        The actor, and what it will tell when it is ready.
    """
    remote: Any = ray.remote(ShardWorker)
    # Ray has a dead worker restarted as it was; here another one takes its place, also on another node.
    options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
    actor = remote.options(num_cpus=1, num_gpus=int(gpu), **options).remote(spec, folder)
    return actor, actor.begin.remote(identity, node_report(), mark)


def _heard(hand: Hand, word: Any) -> Told | None:
    """Note what a worker says about itself."""
    if hand.begun is not None:
        hand.begun = None
        return Told(surroundings=word)
    if isinstance(word, Entry):
        assert hand.shard is not None
        finished = hand.shard, word
        hand.shard = hand.words = None
        return Told(finished=finished)
    hand.made = word
    return None


def _end(hand: Hand) -> None:
    with suppress(RayError, ValueError):  # where Ray itself has gone
        ray.kill(hand.actor)


def _lines(error: RayError) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
