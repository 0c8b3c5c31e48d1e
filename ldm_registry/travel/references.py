"""Addresses of checkpoints on the Hub: `hf://org/name@<40-hex commit>`, or a folder of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ldm_registry.errors import SpecError
from ldm_registry.hub import COMMIT
from ldm_registry.spec_paths import PINNED, UNPINNED


@final
@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One commit of a repository.

    Attributes:
        repository: `org/name`.
        commit: 40 hexadecimal digits.
        folder: Inside the repository; empty for all of it.
    """

    repository: str
    commit: str
    folder: str = ""

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.commit}" + (f"/{self.folder}" if self.folder else "")

    @property
    def name(self) -> str:
        """The last part of what is named."""
        return (self.folder or self.repository).rpartition("/")[2]


def parse_reference(text: str) -> Reference:
    """A pinned address.

    Args:
        text: `hf://org/name@<40-hex commit>`, with or without a folder behind it.

    Raises:
        SpecError: It is not one; a branch and a tag are refused with the command that tells their commit.
    """
    match = PINNED.fullmatch(text)
    if match:
        return Reference(match["repository"], match["commit"], match["folder"] or "")
    repository, revision = parse_repository(text)
    named = f"{repository}@{revision}" if revision else repository
    raise SpecError(
        f"{text} does not name one commit: a branch or a tag can move",
        ["expected hf://org/name@<40-hex commit>"],
        hint=f"`ldm pull {named}` prints the line that pins it",
    )


def parse_repository(text: str) -> tuple[str, str | None]:
    """What a user names to pull: `org/name`, `org/name@revision`, `hf://org/name@revision`.

    Returns:
        The repository, and the branch, tag or commit if one is named.

    Raises:
        SpecError: It is none of these.
    """
    match = UNPINNED.fullmatch(text)
    revision = match["revision"] if match else None
    if match is None or (revision and (".." in revision or revision.startswith(("/", "-", ".")))):
        raise SpecError(
            f"{ascii(text)[:200]} is no address on the Hub",
            hint="write org/name, org/name@v1.0.0 or hf://org/name@<40-hex commit>",
        )
    return match["repository"], revision


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which stands for the same content for ever."""
    return revision is not None and COMMIT.fullmatch(revision) is not None
