"""Which plugins are installed, where each comes from, and whether it still is what it was."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ldm_registry.errors import LdmError, NotFoundError
from ldm_registry.hub import clean
from ldm_registry.registry import Registry
from ldm_registry.travel.plugin_contents import normal
from ldm_registry.travel.plugin_lock import LockedPlugin, locked_of, read_locked
from ldm_registry.travel.plugin_offer import find_installed
from ldm_registry.travel.plugin_store import Installed, installed
from ldm_registry.travel.sealed_code import sealed_folder_of


@dataclass(frozen=True, slots=True)
class State:
    """An installed plugin, wherever it came from.

    Attributes:
        distribution: Its name, in the normal form.
        version: Of the distribution; empty where nobody knows.
        components: `kind.name` of each.
        origin: `hf://org/name`, or what installed it.
        revision: As it was asked for; None for what is not from the Hub.
        commit: What that stood for.
        digest: Of its code.
        locked: Whether the lock names it.
        problems: Whatever is not as it was installed or locked.
    """

    distribution: str
    version: str
    components: tuple[str, ...]
    origin: str
    revision: str | None = None
    commit: str | None = None
    digest: str | None = None
    locked: bool = False
    problems: tuple[str, ...] = ()

    @property
    def is_from_hub(self) -> bool:
        """Whether there is, or has to be, a record to compare it with."""
        return self.commit is not None or bool(self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The state as a JSON document."""
        return {field: getattr(self, field) for field in self.__slots__}


def states(site_folder: Path, lock: Path) -> list[State]:
    """Every installed plugin, those from the Hub compared with their records and with the lock. Imports nothing.

    Args:
        site_folder: Of the environment.
        lock: The lock file; it need not exist.

    Raises:
        IntegrityError: The lock is broken.
    """
    locked = read_locked(lock)
    ours = {one.distribution: one for one in installed(site_folder)}
    found = [_state(one, locked.get(name), lock) for name, one in ours.items()]
    found += [
        State(name, "", (), f"hf://{one.repository}", one.revision, one.commit, one.digest, True,
              (f"{lock} names it, and it is not installed: `ldm plugin install hf://{one.repository}@{one.commit}`",))
        for name, one in locked.items()
        if name not in ours
    ]  # fmt: skip
    points: dict[str, list[str]] = {}
    for entry in Registry.discover().entries():
        points.setdefault(entry.distribution, []).append(f"{entry.kind}.{entry.name}")
    for distribution, components in points.items():
        if normal(distribution) not in ours:
            found.append(_other(distribution, tuple(components)))
    return sorted(found, key=lambda one: one.distribution)


def verified(names: Sequence[str], site_folder: Path, lock: Path) -> list[State]:
    """The states of some plugins from the Hub, or of all that are installed or locked.

    Args:
        names: Of distributions; none for all.
        site_folder: Of the environment.
        lock: The lock file; it need not exist.

    Raises:
        NotFoundError: One of them was not installed from the Hub.
        IntegrityError: The lock is broken.
    """
    found = {one.distribution: one for one in states(site_folder, lock)}
    wanted = {
        name if name in found else find_installed(normal(name), site_folder).distribution for name in names
    }
    strangers = sorted(name for name in wanted if not found[name].is_from_hub)
    if strangers:
        raise NotFoundError(
            f"{', '.join(strangers)}: not installed from the Hub, so there is nothing to compare with",
            hint="`ldm plugin list` shows where each plugin comes from",
        )
    return [one for name, one in found.items() if one.is_from_hub and (not names or name in wanted)]


def _state(one: Installed, locked: LockedPlugin | None, lock: Path) -> State:
    seal = one.seal
    if seal is None:
        return State(one.distribution, "", (), "the Hub, record broken", problems=one.problems)
    problems = [*one.problems, *against_lock(locked_of(one.distribution, seal), locked, lock)]
    if one.folder is not None and str(one.folder) in sys.path:
        packages = {path.partition("/")[0].removesuffix(".py") for path in seal.files if path.endswith(".py")}
        for package in sorted(packages):
            if sealed_folder_of(package) != one.folder:
                problems.append(
                    f"package {package!a} is found elsewhere first, and would be used in its place"
                )
    return State(
        one.distribution,
        seal.version,
        seal.components,
        f"hf://{seal.repository}",
        seal.revision,
        seal.commit,
        seal.digest,
        locked is not None,
        tuple(problems),
    )


def against_lock(found: LockedPlugin, locked: LockedPlugin | None, lock: Path) -> list[str]:
    """How an installed plugin differs from what a lock says of it, if it says anything.

    Args:
        found: As a lock would name what is installed.
        locked: As it does.
        lock: Its file, for the messages.
    """
    if locked is None:
        return []
    texts = ("repository", "commit", "digest")
    problems = [
        f"{key}: {lock} says {getattr(locked, key)}, installed is {getattr(found, key)}"
        for key in texts
        if getattr(locked, key) != getattr(found, key)
    ]
    if problems:
        return problems + [
            f"{path!a}: differs from {lock}"
            for path in sorted(locked.files.keys() | found.files.keys())
            if locked.files.get(path) != found.files.get(path)
        ]
    return []


def _other(distribution: str, components: Sequence[str]) -> State:
    try:
        there = metadata.distribution(distribution)
        version, by = there.version, (there.read_text("INSTALLER") or "other means").strip()
    except (metadata.PackageNotFoundError, LdmError):
        version, by = "", "other means"
    return State(normal(distribution), version, tuple(sorted(components)), f"installed by {clean(by)}")
