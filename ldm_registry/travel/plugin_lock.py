"""The plugins that `ldm.lock` names: what has to be installed where the lock is used. A lock never grants trust."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from ldm_registry.errors import IntegrityError, SpecError
from ldm_registry.travel.listing import path_problem
from ldm_registry.travel.lock import Lock, changing, read_lock, write_lock
from ldm_registry.travel.references import Reference, parse_reference
from ldm_registry.travel.sealed_code import Seal, code_digest
from ldm_registry.travel.verified import FileFacts

SECTION = "plugins"
_KEYS = frozenset({"distribution", "repo", "revision", "commit", "digest", "files"})
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@final
@dataclass(frozen=True, slots=True)
class LockedPlugin:
    """What a lock says of one plugin.

    Attributes:
        distribution: Its name, in the normal form.
        repository: `org/name`.
        revision: As it was asked for.
        commit: What that stood for.
        digest: Of the code.
        files: By path in the repository.
    """

    distribution: str
    repository: str
    revision: str
    commit: str
    digest: str
    files: Mapping[str, FileFacts]


def locked_of(name: str, seal: Seal) -> LockedPlugin:
    """How a lock names an installed plugin.

    Args:
        name: Of the distribution, in its normal form.
        seal: Its record.
    """
    files = {
        file.source: FileFacts(file.size, file.sha256)
        for file in seal.files.values()
        if file.source is not None
    }
    return LockedPlugin(name, seal.repository, seal.revision, seal.commit, seal.digest, files)


def read_locked(path: Path) -> Mapping[str, LockedPlugin]:
    """The plugins of a lock file, by distribution; none where there is no file.

    Raises:
        IntegrityError: The file is broken.
    """
    return _locked(path, read_lock(path))


def change_locked(path: Path, name: str, plugin: LockedPlugin | None) -> None:
    """Set or take away one plugin of a lock file, which is written in one step, and only where something changes.

    Raises:
        LdmError: The file is broken, or cannot be written.
    """
    with changing(path):
        lock = read_lock(path)
        held = dict(_locked(path, lock))
        changed = {key: one for key, one in held.items() if key != name}
        if plugin is not None:
            changed[name] = plugin
        if changed == held:
            return
        rest = {key: value for key, value in lock.rest.items() if key != SECTION}
        if changed:
            rest[SECTION] = [_described(one) for _, one in sorted(changed.items())]
        write_lock(path, Lock(lock.checkpoints, MappingProxyType(rest)))


def _locked(path: Path, lock: Lock) -> Mapping[str, LockedPlugin]:
    entries = lock.rest.get(SECTION, [])
    try:
        plugins = {one.distribution: one for one in map(_entry, entries)}
        if len(plugins) != len(entries):
            raise ValueError("a plugin stands there twice")
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise IntegrityError(
            f"{path} is broken: its plugins",
            [f"{type(error).__name__}: {error}"],
            "restore it from version control",
        ) from error
    return plugins


def _described(plugin: LockedPlugin) -> dict[str, Any]:
    return {
        "distribution": plugin.distribution,
        "repo": plugin.repository,
        "revision": plugin.revision,
        "commit": plugin.commit,
        "digest": plugin.digest,
        "files": [
            {"path": path, "size": facts.size, "sha256": facts.sha256}
            for path, facts in sorted(plugin.files.items())
        ],
    }


def _entry(document: Mapping[str, Any]) -> LockedPlugin:
    if document.keys() != _KEYS:
        raise ValueError(
            f"keys {', '.join(sorted(map(ascii, document)))}; expected {', '.join(sorted(_KEYS))}"
        )
    name, repository, commit = (document[key] for key in ("distribution", "repo", "commit"))
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!a} is no name of a distribution")
    address = f"hf://{repository}@{commit}"
    if parse_reference(address) != Reference(repository, commit):
        raise ValueError(f"{address!a} is no address")
    files = {}
    for item in document["files"]:
        path, size, sha256 = item["path"], item["size"], item["sha256"]
        if path_problem(path) or type(size) is not int or size < 0 or not _SHA256.fullmatch(sha256):
            raise ValueError(f"{name}: malformed file {ascii(item)[:120]}")
        files[path] = FileFacts(size, sha256)
    if document["digest"] != (found := code_digest({path: facts.sha256 for path, facts in files.items()})):
        raise ValueError(f"{name}: its files have the digest {found}, it says {document['digest']!a}")
    return LockedPlugin(name, repository, str(document["revision"]), commit, document["digest"], files)
