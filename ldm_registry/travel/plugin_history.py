"""Whether a repository still is the one that it was, and a version the one that it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from ldm_registry.errors import IntegrityError, NotFoundError, PluginError
from ldm_registry.hub import Hub, References
from ldm_registry.travel.plugin_lock import LockedPlugin
from ldm_registry.travel.plugin_store import installed
from ldm_registry.travel.references import is_commit


@dataclass(frozen=True, slots=True)
class Held:
    """Where a repository stood when something of it was installed or locked."""

    name: str
    revision: str
    commit: str
    where: str


def held_of(
    repository: str, site_folder: Path, locked: Mapping[str, LockedPlugin], lock: Path
) -> tuple[Held, ...]:
    """Everything of a repository that is installed or locked.

    Args:
        repository: `org/name`.
        site_folder: Of the environment.
        locked: What a lock says, by distribution.
        lock: Its file, for the messages.
    """
    seals = [(one.distribution, one.seal) for one in installed(site_folder) if one.seal is not None]
    return (
        *(
            Held(name, seal.revision, seal.commit, "what is installed")
            for name, seal in seals
            if seal.repository == repository
        ),
        *(
            Held(name, one.revision, one.commit, str(lock))
            for name, one in locked.items()
            if one.repository == repository
        ),
    )


def current_commit(hub: Hub, repository: str, revision: str | None, held: tuple[Held, ...]) -> str:
    """The commit that is asked for, of a repository that still is the one that it was.

    Raises:
        IntegrityError: A commit that we hold is gone, or a tag that we hold names another commit.
    """
    try:
        commit = hub.commit_of(repository, revision)
    except NotFoundError:
        if any(one.commit == revision for one in held):
            hub.commit_of(repository)  # where the whole repository is gone, that is what is said
            raise _made_anew(repository, next(one for one in held if one.commit == revision)) from None
        raise
    elsewhere = [one for one in held if one.commit != commit]
    for one in elsewhere:
        try:
            hub.commit_of(repository, one.commit)
        except NotFoundError:
            raise _made_anew(repository, one) from None
    named = [one for one in elsewhere if not is_commit(one.revision)]
    tags = hub.references(repository).tags if named else {}
    for one in named:
        if tags.get(one.revision, one.commit) != one.commit:
            raise IntegrityError(
                f"{repository}: the tag {one.revision} was moved",
                [f"{one.where} says {one.commit}", f"now it stands for {tags[one.revision]}"],
                hint="a version never changes: ask its author what happened; nothing was fetched",
            )
    return commit


def newest(references: References, revision: str) -> str:
    """The newest version tag; the branch that was asked for, or `main`, where there is none."""
    versions: dict[Version, str] = {}
    for tag in references.tags:
        try:
            versions[Version(tag)] = tag
        except InvalidVersion:
            continue
    if revision in references.branches:
        return revision
    released = [version for version in versions if not version.is_prerelease]
    if released:
        return versions[max(released)]
    if "main" not in references.branches:
        raise PluginError(
            "the repository has neither a version tag nor a main branch", hint="say `--to REVISION`"
        )
    return "main"


def _made_anew(repository: str, held: Held) -> IntegrityError:
    return IntegrityError(
        f"{repository} is not the repository that it was",
        [f"{held.where} names its commit {held.commit}, which it does not have any more"],
        hint="it was deleted and made anew, maybe by somebody else, or its history was rewritten; if you trust it all "
        f"the same, `ldm plugin remove {held.name}` first",
    )
