from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import final

import pytest

from ldm_registry.errors import ResourceError
from ldm_registry.streaming.batch_size import Sized
from ldm_registry.streaming.identity import Identity
from ldm_registry.streaming.making import Made, Maker
from ldm_registry.streaming.manifest import Entry, Manifest, read_manifest
from ldm_registry.streaming.plan import Plan, Shard
from ldm_registry.streaming.session import Session

PLAN = Plan(200, 1, 1)


@final
class Quick(Maker):
    """Finishes a shard at once, and breaks down after so many."""

    def __init__(self, until: int = 200) -> None:
        self._until = until
        self._new: list[tuple[Shard, Entry]] = []

    def surroundings(self) -> None:
        """Told by workers."""

    def fitting_batch(self, n: int) -> Sized:
        raise NotImplementedError

    def making(self, plan: Plan, missing: Sequence[Shard]) -> Generator[Made, None, None]:
        for shard in missing:
            if shard.number == self._until:
                raise ResourceError("the disk is full")
            self._new.append((shard, Entry(shard.file, shard.number, 1, 1, "00")))
            yield Made(shard.number + 1, surroundings=({"node": shard.number % 2},))

    def finished(self) -> list[tuple[Shard, Entry]]:
        new, self._new = self._new, []
        return new


@pytest.fixture
def writings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many shards each of the manifests listed that were written; writing takes a while."""
    listed: list[int] = []
    write = Manifest.write

    def slow(manifest: Manifest, folder: Path) -> None:
        listed.append(len(manifest.shards))
        time.sleep(0.02)
        write(manifest, folder)

    monkeypatch.setattr(Manifest, "write", slow)
    return listed


def session(folder: Path, maker: Maker) -> Session:
    return Session(maker, folder, Manifest(Identity("", "", {}), PLAN, {}), lambda: False)


def test_a_manifest_that_takes_long_to_write_is_written_less_often_and_at_last_whole(
    tmp_path: Path, writings: list[int]
) -> None:
    *_, last = session(tmp_path, Quick()).reports()
    assert (last.whole, last.stopped) == (200, "finished")
    assert len(writings) < 20
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert sorted(manifest.shards) == list(range(200))


def test_an_error_ends_a_run_with_every_finished_shard_listed(tmp_path: Path, writings: list[int]) -> None:
    with pytest.raises(ResourceError, match="the disk is full"):
        list(session(tmp_path, Quick(until=123)).reports())
    assert writings[-1] == 123


def test_leaving_a_run_lists_every_finished_shard(tmp_path: Path, writings: list[int]) -> None:
    reports = session(tmp_path, Quick()).reports()
    for _ in range(51):
        next(reports)
    reports.close()  # type: ignore[attr-defined]  # a generator
    assert writings[-1] == 50


def test_machines_of_workers_are_listed_once(tmp_path: Path) -> None:
    notes = [note for report in session(tmp_path, Quick()).reports() for note in report.notes]
    document = json.loads((tmp_path / "manifest.json").read_text())
    assert document["sessions"] == [{"node": 0}, {"node": 1}]
    assert len(notes) == 1
    assert "pixels may differ" in notes[0]
