"""What the Hub answers, as values. Every one is the word of a server: `travel` checks what it relies on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a commit, as the Hub lists it; every value is a claim of the server.

    Attributes:
        path: Relative to the repository.
        size: Bytes.
        blob: What git calls the content (a SHA-1 of its size and itself), or of the pointer to it.
        sha256: Of the content, where it is stored outside of git (large files).
    """

    path: str
    size: int
    blob: str
    sha256: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Listing:
    """What a commit holds.

    Attributes:
        files: In the order of the server.
        folders: Everything that is not a file.
    """

    files: tuple[RemoteFile, ...]
    folders: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Found:
    """A repository that a search found.

    Attributes:
        repository: `org/name`.
        tags: Of its card.
        downloads: As the Hub counts them.
        commit: Where its main branch stands, if the server says so.
        private: Only its owners see it.
        gated: Its terms have to be accepted first.
    """

    repository: str
    tags: tuple[str, ...]
    downloads: int
    commit: str | None
    private: bool
    gated: bool


@final
@dataclass(frozen=True, slots=True)
class References:
    """Branches and tags of a repository, each with its commit."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


@final
@dataclass(frozen=True, slots=True)
class Account:
    """Whose token it is, and which namespaces belong to it."""

    name: str
    namespaces: tuple[str, ...]
