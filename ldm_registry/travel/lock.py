"""`ldm.lock`: what a spec's addresses on the Hub have to hold, file by file. JSON, sorted, for version control."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError, SpecError
from ldm_registry.hub_local import alone
from ldm_registry.json_files import read_json
from ldm_registry.spec_paths import PINNED
from ldm_registry.travel.listing import path_problem
from ldm_registry.travel.references import Reference, parse_reference
from ldm_registry.travel.verified import FileFacts, cache_root

LOCK = "ldm.lock"
MAX_LOCK_BYTES = 16 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKPOINTS = "checkpoints"

Files = Mapping[str, FileFacts]


@final
@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock file says.

    Attributes:
        checkpoints: The files of each address, by path inside it.
        rest: Other sections, kept as they are.
    """

    checkpoints: Mapping[Reference, Files] = field(default_factory=lambda: MappingProxyType({}))
    rest: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def with_checkpoints(self, held: Mapping[Reference, Files]) -> Lock:
        """The same lock with more addresses.

        Raises:
            IntegrityError: One of them is there already, with other files.
        """
        for reference, files in held.items():
            problems = disagreements(self.checkpoints.get(reference, files), files)
            if problems:
                raise _contradiction(reference, problems)
        return Lock({**self.checkpoints, **held}, self.rest)


def read_lock(path: Path) -> Lock:
    """A lock file; an empty lock where there is none.

    Raises:
        IntegrityError: The file is broken.
    """
    try:
        document = read_json(path, max_bytes=MAX_LOCK_BYTES)
    except NotFoundError:
        return Lock()
    if document.pop("version", None) != 1:
        raise CheckpointError(
            f"{path} is not a lock file of version 1", hint="restore it from version control"
        )
    entries = document.pop(_CHECKPOINTS, [])
    try:
        checkpoints = dict(map(_entry, entries))
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise CheckpointError(
            f"{path} is broken", [f"{type(error).__name__}: {error}"], hint="restore it from version control"
        ) from error
    if len(checkpoints) != len(entries):
        raise CheckpointError(f"{path} names an address twice", hint="restore it from version control")
    return Lock(checkpoints, document)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Read, change and write a lock file here, and no other process does meanwhile."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    with alone(cache_root() / "locks" / f"{name}.lock"):
        yield


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file, in one step.

    Raises:
        SpecError: The folder cannot be written to.
    """
    entries = [describe_entry(reference, files) for reference, files in sorted(lock.checkpoints.items())]
    document = {"version": 1, _CHECKPOINTS: entries, **lock.rest}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(
            f"{path} cannot be written: {error.strerror}", hint="copy the spec to a folder of your own"
        ) from error


def describe_entry(reference: Reference, files: Files) -> dict[str, Any]:
    """One address as a lock file has it."""
    return {
        "repo": reference.repository,
        "commit": reference.commit,
        **({"folder": reference.folder} if reference.folder else {}),
        "files": [
            {"path": path, "size": facts.size, "sha256": facts.sha256}
            for path, facts in sorted(files.items())
        ],
    }


def read_entry(document: Mapping[str, Any]) -> tuple[Reference, Files]:
    """The address that `describe_entry` described.

    Raises:
        ValueError: It is malformed.
    """
    try:
        return _entry(document)
    except (KeyError, TypeError, AttributeError, SpecError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def disagreements(expected: Files, found: Files) -> list[str]:
    """How two accounts of the same files differ."""
    problems = []
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = expected.get(name), found.get(name)
        if wanted != got:
            problems.append(f"{name}: expected {_shown(wanted)}, found {_shown(got)}")
    return problems


def check_against(reference: Reference, locked: Files | None, found: Files) -> None:
    """Compare what is there with what a lock says, if it says anything.

    Raises:
        IntegrityError: They differ.
    """
    problems = disagreements(locked, found) if locked is not None else []
    if problems:
        raise _contradiction(reference, problems)


def _contradiction(reference: Reference, problems: Iterable[str]) -> IntegrityError:
    return IntegrityError(
        f"{reference} is not what {LOCK} says",
        problems,
        hint=f"ask whoever wrote {LOCK} which of the two is right; nothing was loaded",
    )


def _shown(facts: FileFacts | None) -> str:
    return f"{facts.size} bytes, sha256 {facts.sha256}" if facts else "nothing"


def _entry(document: Mapping[str, Any]) -> tuple[Reference, Files]:
    unknown = document.keys() - {"repo", "commit", "folder", "files"}
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(sorted(map(str, unknown)))}")
    reference = Reference(document["repo"], document["commit"], document.get("folder", ""))
    if not PINNED.fullmatch(str(reference)) or parse_reference(str(reference)) != reference:
        raise ValueError(f"{ascii(str(reference))[:120]} is no address")
    files = {}
    for item in document["files"]:
        path, size, sha256 = item["path"], item["size"], item["sha256"]
        if path_problem(path) or type(size) is not int or size < 0 or not _SHA256.fullmatch(sha256):
            raise ValueError(f"{reference}: malformed file {ascii(item)[:120]}")
        if path in files:
            raise ValueError(f"{reference}: {path} stands there twice")
        files[path] = FileFacts(size, sha256)
    return reference, files
