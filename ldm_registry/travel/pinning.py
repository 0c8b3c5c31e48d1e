"""From what moves to what does not: a branch or a tag to its commit, and what is remembered of both."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ldm_registry.errors import IntegrityError, LdmError, NotFoundError
from ldm_registry.hub import Hub, is_missing_revision
from ldm_registry.json_files import read_json
from ldm_registry.spec_paths import PINNED
from ldm_registry.travel.pull import held_commits, repository_folder
from ldm_registry.travel.references import Reference, is_commit, parse_reference, parse_repository

_UNPINNED_IN_TEXT = re.compile(r"hf:/*[\w./@-]+", re.ASCII)


def pinned(text: str, hub: Hub, folder: str = "") -> Reference:
    """The commit that a user's word stands for now.

    Args:
        text: `org/name`, `org/name@v1.0.0`, or a full address.
        hub: To ask; not asked where a commit is named.
        folder: Inside the repository.

    Raises:
        SpecError: It is no address.
        NotFoundError: No such repository or revision.
        IntegrityError: A tag has moved since it was pulled, or the repository is another than the one of before.
        NetworkError: The Hub cannot be asked.
    """
    if PINNED.fullmatch(text):
        known = parse_reference(text)
        return Reference(known.repository, known.commit, folder or known.folder)
    repository, revision = parse_repository(text)
    if revision is not None and is_commit(revision):
        return parse_reference(str(Reference(repository, revision, folder)))
    commit = hub.commit_of(repository, revision)
    _check_tag(repository, revision, commit)
    _check_history(repository, commit, hub)
    if revision is not None and hub.references(repository).tags.get(revision) == commit:
        _remember_tag(repository, revision, commit)
    return parse_reference(str(Reference(repository, commit, folder)))


def lines_that_pin(error: LdmError) -> list[str]:
    """For an error about addresses that name no commit: the lines to write in their place.

    Asks the Hub, unless it is offline. What cannot be told is left out.
    """
    lines = []
    for word in dict.fromkeys(_UNPINNED_IN_TEXT.findall(" ".join(error.problems))):
        address = word.rstrip(".,")
        if PINNED.fullmatch(address) or address == "hf://org/name":
            continue
        hub = Hub.from_environment()
        try:
            repository, revision = parse_repository(address)
            if not hub.offline and not is_commit(revision):
                lines.append(f"checkpoint: {Reference(repository, hub.commit_of(repository, revision))}")
        except LdmError:
            continue
    return lines


def _check_tag(repository: str, revision: str | None, commit: str) -> None:
    before = _tags(repository).get(revision or "")
    if before is not None and before != commit:
        raise IntegrityError(
            f"{repository}: tag {revision} has moved",
            [f"expected {before}, which it stood for when it was pulled", f"found {commit}"],
            hint=f"a version is never moved: ask its author why. What you had is hf://{repository}@{before}",
        )


def _check_history(repository: str, commit: str, hub: Hub) -> None:
    """Whether a repository still has the commits that were pulled before: another one of its name has not."""
    for earlier in held_commits(repository):
        if earlier == commit:
            continue
        try:
            hub.commit_of(repository, earlier)
        except NotFoundError as error:
            if not is_missing_revision(error):
                raise
            raise IntegrityError(
                f"{repository} is not the repository that was pulled before",
                [f"expected its commit {earlier}", f"found {commit} on top of another history"],
                hint="it was deleted and made anew, or its history rewritten: ask its owner before you name "
                "the new commit",
            ) from None


def _tags(repository: str) -> Mapping[str, Any]:
    try:
        return read_json(repository_folder(repository) / "tags.json")
    except NotFoundError:
        return {}


def _remember_tag(repository: str, tag: str, commit: str) -> None:
    path = repository_folder(repository) / "tags.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({**_tags(repository), tag: commit}, indent=2, sort_keys=True), "utf-8")
    os.replace(partial, path)
