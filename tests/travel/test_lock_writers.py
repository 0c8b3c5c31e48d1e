from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ldm_registry.travel.lock import LOCK, changing, read_lock, write_lock
from ldm_registry.travel.plugin_lock import LockedPlugin, change_locked, read_locked
from ldm_registry.travel.references import Reference
from ldm_registry.travel.sealed_code import code_digest
from ldm_registry.travel.verified import FileFacts

WRITERS = 12
FILES = {"config.json": FileFacts(2, "0" * 64)}
DIGEST = code_digest({path: facts.sha256 for path, facts in FILES.items()})


def test_whoever_writes_a_lock_at_the_same_time_loses_no_entry_of_another(tmp_path: Path) -> None:
    path = tmp_path / LOCK

    def checkpoint(number: int) -> None:
        reference = Reference(f"org/checkpoint-{number}", "0a" * 20)
        with changing(path):
            write_lock(path, read_lock(path).with_checkpoints({reference: FILES}))

    def plugin(number: int) -> None:
        name = f"plugin-{number}"
        change_locked(path, name, LockedPlugin(name, f"org/{name}", "main", "0a" * 20, DIGEST, FILES))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2 * WRITERS) as threads:
            jobs = [threads.submit(write, n) for n in range(WRITERS) for write in (checkpoint, plugin)]
        for job in jobs:
            job.result()
    finally:
        sys.setswitchinterval(before)
    assert len(read_lock(path).checkpoints) == WRITERS
    assert len(read_locked(path)) == WRITERS
