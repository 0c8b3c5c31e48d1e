"""The listing of a repository is a stranger's word: paths, sizes and digests are checked before a byte is fetched."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

from ldm_registry.errors import IntegrityError
from ldm_registry.hub import Listing, RemoteFile, clean

MAX_PATH = 200
MAX_SHOWN = 12
RESERVED = frozenset({".git", ".cache", ".huggingface"})
"""Folders in which git and the client keep their own notes."""
_WINDOWS_NAMES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """How much a repository may hold.

    Attributes:
        files: Number of files.
        file_bytes: Of one file.
        total_bytes: Of all files.
    """

    files: int = 1000
    file_bytes: int = 64 * 2**30
    total_bytes: int = 256 * 2**30


CHECKPOINT_LIMITS = Limits()


def checked_listing(
    listing: Listing, what: str, limits: Limits = CHECKPOINT_LIMITS
) -> tuple[RemoteFile, ...]:
    """The files of a listing, known to be safe to write under a folder of ours.

    Args:
        listing: As the server sent it.
        what: Named in errors.
        limits: How many and how large files there may be.

    Raises:
        IntegrityError: A path climbs, is absolute, collides with another or is no plain file; or there are too
            many or too large files. All problems at once.
    """
    problems = [
        *(f"{clean(file.path)!r}: {problem}" for file in listing.files for problem in _of_file(file)),
        *_collisions(listing),
        *_too_much(listing.files, limits),
    ]
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        raise IntegrityError(
            f"{what} was refused: its listing is not that of a component",
            [*problems[:MAX_SHOWN], *more],
            hint="nothing was fetched; do not use this repository, and report it to the Hub",
        )
    return listing.files


def path_problem(path: object) -> str | None:
    """Why a path must not be written under a folder of ours; None where it may."""
    if not isinstance(path, str) or not path or len(path) > MAX_PATH:
        return f"a path has 1 to {MAX_PATH} characters"
    if not path.isprintable():
        return "control characters"
    if path.startswith("/") or "\\" in path or ":" in path:
        return "an absolute path, a drive or a backslash"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "an empty step, or one that climbs"
        if part != part.strip() or part.endswith("."):
            return "a name that starts or ends with a space, or ends with a dot"
        if part.casefold() in RESERVED or _WINDOWS_NAMES.fullmatch(part):
            return "a name that is reserved"
    return None


def _of_file(file: RemoteFile) -> Iterator[str]:
    problem = path_problem(file.path)
    if problem:
        yield problem
    if type(file.size) is not int or file.size < 0:
        yield "has no size"
    if not isinstance(file.blob, str) or not _BLOB.fullmatch(file.blob):
        yield "has no digest"
    if file.sha256 is not None and (not isinstance(file.sha256, str) or not _DIGEST.fullmatch(file.sha256)):
        yield "has a malformed sha256"


def _collisions(listing: Listing) -> Iterator[str]:
    """Files that overwrite one another on some disk, and entries that are neither file nor folder."""
    seen: dict[str, str] = {}
    above: set[str] = set()
    for file in listing.files:
        path = str(file.path)
        key = _folded(path)
        if key in seen:
            yield f"{clean(path)!r} and {clean(seen[key])!r} are one file where case does not count"
        seen[key] = path
        parts = key.split("/")
        above |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    yield from (f"{clean(seen[key])!r} is a file and a folder" for key in sorted(above & set(seen)))
    for folder in listing.folders:
        if path_problem(folder):
            yield f"{clean(folder)!r}: {path_problem(folder)}"
        elif _folded(str(folder)) not in above:
            # git keeps no empty folders: what is listed as one is a link or a submodule.
            yield f"{clean(folder)!r} is a link or a submodule, not a file"


def _too_much(files: Iterable[RemoteFile], limits: Limits) -> Iterator[str]:
    sized = [file for file in files if type(file.size) is int]
    total = sum(file.size for file in sized)
    if len(sized) > limits.files:
        yield f"{len(sized)} files; at most {limits.files} are allowed"
    for file in sized:
        if file.size > limits.file_bytes:
            yield f"{clean(file.path)!r}: {file.size} bytes; at most {limits.file_bytes} are allowed"
    if total > limits.total_bytes:
        yield f"{total} bytes altogether; at most {limits.total_bytes} are allowed"


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", path).casefold()
