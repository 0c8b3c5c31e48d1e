"""Digests of files on this machine: taken once for a large file, as long as it stays the file that it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ldm_registry.errors import IntegrityError
from ldm_registry.hub import RemoteFile
from ldm_registry.hub_local import cache_home

REMEMBERED_ENDING = ".safetensors"
_TICK_NS = 20_000_000
"""Within this time after a change, a second change may leave the same time on a file."""
_CHUNK_BYTES = 2**20


@final
@dataclass(frozen=True, slots=True, order=True)
class FileFacts:
    """What a file has to be.

    Attributes:
        size: Bytes.
        sha256: Hexadecimal.
    """

    size: int
    sha256: str


def cache_root() -> Path:
    """Where pulled checkpoints lie: LDM_CACHE, else beside the caches of the Hub's own tools."""
    named = os.environ.get("LDM_CACHE")
    return Path(named).expanduser().absolute() if named else cache_home().absolute() / "ldm-registry"


def facts_of(path: Path) -> FileFacts:
    """Size and SHA-256 of a file, read whole."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return FileFacts(size, digest.hexdigest())


def known_facts(path: Path) -> FileFacts:
    """Size and SHA-256 of a file; weights are read again only where path, size, time or inode have changed."""
    if path.suffix != REMEMBERED_ENDING:
        return facts_of(path)
    note, now = _note(path), _identity(path)
    try:
        held = json.loads(note.read_text("utf-8"))
        if held["identity"] == now:
            return FileFacts(int(now[1]), str(held["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or one that was cut short
    facts = facts_of(path)
    remember(path, facts)
    return facts


def digest_here(path: Path) -> str:
    """SHA-256 of a file: of weights that were pulled as `known_facts` has it, of all others by reading them."""
    pulled = path.absolute().is_relative_to(cache_root())
    return (known_facts(path) if pulled else facts_of(path)).sha256


def remember(path: Path, facts: FileFacts) -> None:
    """Note the digest of a file that was just read, unless it changed so lately that it may change unseen."""
    identity = _identity(path)
    if time.time_ns() - int(identity[2]) < _TICK_NS or identity[1] != facts.size:
        return
    note = _note(path)
    partial = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"identity": identity, "sha256": facts.sha256}), "utf-8")
        os.replace(partial, note)
    except OSError:
        partial.unlink(missing_ok=True)  # a full or read-only disk costs time at the next load, nothing else


def check_arrived(path: Path, listed: RemoteFile) -> FileFacts:
    """Whether a file that was fetched is the one that was listed.

    Raises:
        IntegrityError: Another size or digest.
    """
    facts = facts_of(path)
    problems = []
    if facts.size != listed.size:
        problems.append(f"size: expected {listed.size}, found {facts.size}")
    if listed.sha256 is not None and facts.sha256 != listed.sha256:
        problems.append(f"sha256: expected {listed.sha256}, found {facts.sha256}")
    elif listed.sha256 is None and (found := _git_blob(path, facts.size, listed.blob)) != listed.blob:
        problems.append(f"git blob: expected {listed.blob}, found {found}")
    if problems:
        raise IntegrityError(
            f"{listed.path} did not arrive as the Hub lists it",
            problems,
            hint="nothing was kept; try again, and where it happens again do not use this repository",
        )
    return facts


def differences(folder: Path, expected: Mapping[str, FileFacts]) -> list[str]:
    """How a folder differs from what it has to hold: changed, missing and additional files.

    Args:
        folder: To look at.
        expected: By path.
    """
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    problems = [f"{name}: is not part of it" for name in sorted(there.keys() - expected.keys())]
    for name, facts in sorted(expected.items()):
        path = folder / name
        if name not in there:
            problems.append(f"{name}: expected {facts.size} bytes, found nothing")
        elif path.is_symlink() or not path.is_file():
            problems.append(f"{name}: expected a file, found a link")
        elif (size := path.stat().st_size) != facts.size:
            problems.append(f"{name}: expected {facts.size} bytes, found {size}")
        elif (found := known_facts(path)) != facts:
            problems.append(f"{name}: expected sha256 {facts.sha256}, found {found.sha256}")
    return problems


def _git_blob(path: Path, size: int, expected: str) -> str:
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(path: Path) -> list[str | int]:
    stat = path.stat()
    return [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _note(path: Path) -> Path:
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()
    return cache_root() / "digests" / f"{name}.json"
