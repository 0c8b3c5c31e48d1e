"""The Hugging Face Hub, as far as it is used here: a small typed client over `huggingface_hub`, imported nowhere else.

Address, token and folders are handed over, never read from the library's own constants. What the library raises
becomes one of our errors, in our words: what a server says is cut short, stripped of control characters and of the
token. Nothing that is downloaded is trusted here; `travel` compares it with what it has to be.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from ldm_registry.errors import IntegrityError, LdmError, NetworkError, NotFoundError, SpecError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")
OFFLINE_VARIABLES = ("LDM_OFFLINE", "HF_HUB_OFFLINE")
MAX_LISTED = 20_000
"""Entries of a file listing that are read before it is given up."""

_SHORT_ANSWER_S = 10.0
_LONG_ANSWER_S = 120.0
_SLOWEST_UPLOAD_BYTES_PER_S = 20_000
_PAUSES_S = (1.0, 3.0)
_PASSING = (408, 429, 500, 502, 503, 504)


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


@final
class Hub:
    """One Hub, seen with one token.

    Args:
        endpoint: Its address; None is the library's own default.
        token: What we are known by; None asks as nobody, whatever is stored on the machine.
        offline: Refuse instead of asking anything.
    """

    def __init__(
        self, endpoint: str | None = None, token: str | None = None, *, offline: bool = False
    ) -> None:
        self.endpoint = endpoint
        self.offline = offline
        self._token = token

    @classmethod
    def from_environment(cls) -> Hub:
        """As HF_ENDPOINT, HF_TOKEN (or the stored login), LDM_OFFLINE and HF_HUB_OFFLINE say."""
        if is_offline():
            return cls(os.environ.get("HF_ENDPOINT"), offline=True)
        from huggingface_hub import get_token

        implicit = os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "") in ("", "0")
        return cls(os.environ.get("HF_ENDPOINT"), get_token() if implicit else None)

    def __repr__(self) -> str:
        return f"Hub({self.endpoint!r}, token={'***' if self._token else None})"

    @property
    def has_token(self) -> bool:
        """Whether we are known by one."""
        return self._token is not None

    def commit_of(self, repository: str, revision: str | None = None) -> str:
        """The commit that a branch, a tag or a commit's hash stands for now.

        Args:
            repository: `org/name`.
            revision: None is the main branch.

        Raises:
            NotFoundError: No such repository or revision, or none that this token sees.
            NetworkError: The Hub could not be asked, or refused.
        """
        what = f"{repository}@{revision}" if revision else repository
        info = self._read(
            what, lambda api: api.model_info(repository, revision=revision, timeout=_SHORT_ANSWER_S)
        )
        if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
            raise NetworkError(f"{what}: the server named no commit", hint=_not_a_hub())
        return info.sha

    def is_private(self, repository: str) -> bool:
        """Whether only its owners see a repository.

        Raises:
            NotFoundError: No such repository.
            NetworkError: As `commit_of`.
        """
        found = self._read(repository, lambda api: api.model_info(repository, timeout=_SHORT_ANSWER_S))
        return bool(found.private)

    def knows_secret(self, content: bytes) -> bool:
        """Whether our own token stands in a content, in plain text."""
        return self._token is not None and self._token.encode() in content

    def files(self, repository: str, commit: str) -> Listing:
        """Everything that a commit holds; not checked.

        Raises:
            NotFoundError: No such repository or commit.
            IntegrityError: The listing does not end.
            NetworkError: As `commit_of`.
        """

        def read(api: HfApi) -> list[Any]:
            return list(
                islice(api.list_repo_tree(repository, revision=commit, recursive=True), MAX_LISTED + 1)
            )

        what = f"{repository}@{commit}"
        entries = self._asked(what, read, _LONG_ANSWER_S)
        if len(entries) > MAX_LISTED:
            raise IntegrityError(
                f"{what} lists more than {MAX_LISTED} files", hint="no component is made like that"
            )
        files, folders = [], []
        for entry in entries:
            if hasattr(entry, "blob_id"):
                lfs = entry.lfs
                files.append(RemoteFile(entry.path, entry.size, entry.blob_id, lfs.sha256 if lfs else None))
            else:
                folders.append(entry.path)
        return Listing(tuple(files), tuple(folders))

    def download(self, repository: str, commit: str, path: str, folder: Path) -> Path:
        """Fetch one file of a commit into a folder, under its own path. What arrives is not checked.

        Args:
            repository: `org/name`.
            commit: 40 hexadecimal digits.
            path: Checked beforehand to stay inside the folder.
            folder: Gets the file, and the library's notes under `.cache`.

        Raises:
            NotFoundError: No such file.
            NetworkError: The connection was cut, the disk is full, or as `commit_of`.
        """
        what = f"{repository}@{commit}: {path}"
        with self._translated(what):
            return Path(
                self._api().hf_hub_download(
                    repository, path, revision=commit, local_dir=folder, etag_timeout=_SHORT_ANSWER_S
                )
            )

    def search(self, words: str | None = None, tags: Sequence[str] = (), limit: int = 50) -> list[Found]:
        """Repositories that carry all of some tags.

        Args:
            words: In the name.
            tags: Each has to be there.
            limit: The most that are named.

        Raises:
            NetworkError: As `commit_of`.
        """

        def read(api: HfApi) -> list[Any]:
            return list(api.list_models(filter=list(tags), search=words, limit=limit))

        return [
            Found(
                clean(model.id),
                tuple(clean(tag) for tag in model.tags or ()),
                int(model.downloads or 0),
                model.sha if isinstance(model.sha, str) and COMMIT.fullmatch(model.sha) else None,
                bool(model.private),
                bool(model.gated),
            )
            for model in self._asked("the search", read, _LONG_ANSWER_S)
        ]

    def references(self, repository: str) -> References:
        """Branches and tags.

        Raises:
            NotFoundError: No such repository.
            NetworkError: As `commit_of`.
        """
        found = self._read(repository, lambda api: api.list_repo_refs(repository))
        return References(
            {ref.name: ref.target_commit for ref in found.branches},
            {ref.name: ref.target_commit for ref in found.tags},
        )

    def account(self) -> Account:
        """Whose token we have.

        Raises:
            NetworkError: None, or one that is not accepted.
        """
        if self._token is None and not self.offline:
            raise NetworkError(
                "there is no token for the Hub", hint="`hf auth login` stores one, HF_TOKEN names one"
            )
        found = self._read("the account", lambda api: api.whoami())
        return Account(found["name"], (found["name"], *(org["name"] for org in found.get("orgs", ()))))

    def create_repository(self, repository: str, *, private: bool = False) -> None:
        """Make a model repository, unless there is one.

        Raises:
            NetworkError: The namespace is not ours, or as `commit_of`.
        """
        self._asked(
            repository,
            lambda api: api.create_repo(repository, private=private or None, exist_ok=True),
            _LONG_ANSWER_S,
        )

    def commit(
        self,
        repository: str,
        files: Mapping[str, Path | bytes],
        message: str,
        *,
        parent: str,
        deleted: Sequence[str] = (),
    ) -> str:
        """One commit on the main branch, with all files or none.

        Args:
            repository: `org/name`.
            files: By path: where each lies, or what it holds.
            message: First line of the commit.
            parent: Where the main branch has to stand.
            deleted: Paths that are taken away.

        Returns:
            The new commit.

        Raises:
            NetworkError: The main branch has moved, or as `commit_of`.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationDelete(path) for path in deleted),
            *(CommitOperationAdd(path, content) for path, content in files.items()),
        ]
        sizes = [len(item) if isinstance(item, bytes) else item.stat().st_size for item in files.values()]
        made = self._asked(
            repository,
            lambda api: api.create_commit(
                repository, operations, commit_message=message, parent_commit=parent
            ),
            10 * _LONG_ANSWER_S + sum(sizes) / _SLOWEST_UPLOAD_BYTES_PER_S,
        )
        return str(made.oid)

    def tag(self, repository: str, name: str, commit: str, message: str = "") -> None:
        """Name a commit; a tag that is there already is never moved.

        Raises:
            IntegrityError: The tag stands for another commit.
            NetworkError: As `commit_of`.
        """
        held = self.references(repository).tags.get(name)
        if held is None:
            self._asked(
                f"{repository}@{name}",
                lambda api: api.create_tag(repository, tag=name, revision=commit, tag_message=message),
                _LONG_ANSWER_S,
            )
        elif held != commit:
            raise IntegrityError(
                f"{repository}: tag {name} is never moved",
                [f"it stands for {held}", f"asked for {commit}"],
                hint="give the new content a new version",
            )

    def _api(self) -> HfApi:
        if self.offline:
            raise _offline()
        from huggingface_hub import HfApi

        # False sends no token at all; None would send whatever is stored on this machine.
        return HfApi(endpoint=self.endpoint, token=self._token or False)

    def _read(self, what: str, ask: Callable[[HfApi], T]) -> T:
        """Ask for something that changes nothing, and ask again where the trouble may pass."""
        for pause_s in _PAUSES_S:
            try:
                return self._asked(what, ask, _LONG_ANSWER_S)
            except NetworkError as error:
                cause = error.__cause__
                if cause is None or _status(cause) not in (*_PASSING, None):
                    raise
                time.sleep(pause_s)
        return self._asked(what, ask, _LONG_ANSWER_S)

    def _asked(self, what: str, ask: Callable[[HfApi], T], limit_s: float) -> T:
        api = self._api()
        with self._translated(what):
            return _within(limit_s, lambda: ask(api))

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except LdmError:
            raise
        except Exception as error:
            raise _ours(error, what, self._token) from error


def is_missing_revision(error: NotFoundError) -> bool:
    """Whether it is the branch, tag or commit that was not found, in a repository that is there."""
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error.__cause__, RevisionNotFoundError)


def is_offline() -> bool:
    """Whether the environment forbids to ask the Hub anything."""
    return any(
        os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in OFFLINE_VARIABLES
    )


def cache_home() -> Path:
    """Where the Hub's tools keep things on this machine: HF_HOME, else `huggingface` in the user's cache."""
    home = os.environ.get("HF_HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).expanduser() if home else Path(caches) / "huggingface"


def front_matter(fields: Mapping[str, Any]) -> str:
    """The YAML at the head of a model card, as the Hub reads it.

    Args:
        fields: `license`, `library_name`, `tags`, `base_model` and others of the Hub's.
    """
    from huggingface_hub import ModelCardData

    return str(ModelCardData(**fields).to_yaml())


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock on a file; other processes wait, and the end of a process lets it go.

    Args:
        lock: Made where it is missing.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # public, but not typed as such

    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        yield


def clean(text: object, secret: str | None = None, most: int = 200) -> str:
    """What a stranger wrote, safe to print: one line, printable, short, and without a secret."""
    shown = str(text)
    if secret:
        shown = shown.replace(secret, "***")
    shown = "".join(letter if letter.isprintable() else " " for letter in shown)
    return " ".join(shown.split())[:most]


def _within(limit_s: float, call: Callable[[], T]) -> T:
    """What a call returns, unless it takes too long: most requests of the library wait for ever."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="hub", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {limit_s:.0f} s")
    if errors:
        raise errors[0]
    return results[0]


def _ours(error: Exception, what: str, secret: str | None) -> LdmError:
    from huggingface_hub import errors as theirs

    cause = _root(error)
    said = _said(cause, secret)
    if isinstance(cause, theirs.OfflineModeIsEnabled):
        return _offline()
    if isinstance(cause, theirs.GatedRepoError):
        return NetworkError(
            f"{what}: access is gated", said, hint="accept its terms on its page, then `hf auth login`"
        )
    status = _status(cause)
    if isinstance(cause, theirs.RevisionNotFoundError):
        return NotFoundError(f"{what}: there is no such branch, tag or commit", said)
    if isinstance(cause, theirs.EntryNotFoundError) and status is not None:
        return NotFoundError(f"{what}: there is no such file", said)
    if status == 404:
        return NotFoundError(
            f"{what} does not exist, or is private and not yours",
            said,
            hint="check the name; for a private one: `hf auth login`",
        )
    if status is not None:
        return NetworkError(f"{what}: the Hub answered {status}, {_meaning(status)}", said, _advice(status))
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return NetworkError(
            f"{what}: no space is left on the disk",
            hint="nothing was kept; free some, or name a folder on another disk in LDM_CACHE",
        )
    if isinstance(cause, (theirs.HFValidationError, theirs.HfUriError)):
        return SpecError(f"{what} is not a name on the Hub", [clean(cause)])
    if isinstance(cause, PermissionError):
        return NetworkError(f"{what}: could not be written to {cause.filename}", hint="nothing was kept")
    if isinstance(cause, (TimeoutError, *_transport())) or "timed out" in str(cause).lower():
        return NetworkError(
            f"{what}: the Hub could not be reached, or the connection was cut",
            [clean(f"{type(cause).__name__}: {cause}", secret)],
            hint="nothing was kept; try again, or set LDM_OFFLINE=1 to use what is here already",
        )
    return NetworkError(
        f"{what}: the answer of the Hub could not be used",
        [clean(f"{type(cause).__name__}: {cause}", secret)],
        hint=_not_a_hub(),
    )


def _root(error: BaseException) -> BaseException:
    """The error behind those of the library that say no more than that there was one."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, (LocalEntryNotFoundError, RuntimeError)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _said(error: BaseException, secret: str | None) -> list[str]:
    message = clean(getattr(error, "server_message", None) or "", secret)
    return [f"the server says: {message}"] if message else []


def _transport() -> tuple[type[BaseException], ...]:
    """What the library's HTTP client raises, whichever client it is."""
    from huggingface_hub.errors import HfHubHTTPError

    return (ConnectionError, *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"))


def _meaning(status: int) -> str:
    known = {
        401: "not authorised",
        403: "forbidden",
        409: "a conflict with what is there or is going on",
        412: "the repository has changed meanwhile",
        416: "less is there than was announced",
        429: "too many requests",
    }
    return known.get(status, "a fault of the server" if status >= 500 else "refused")


def _advice(status: int) -> str:
    known = {
        401: "`hf auth login`, or check HF_TOKEN; a private repository looks the same as one that does not exist",
        403: "the token has to grant this; `hf auth whoami` says whose it is",
        409: "try again in a moment",
        412: "try again: what is there now is looked at afresh",
        429: "wait a few minutes and try again; with a token more requests are allowed",
    }
    return known.get(status, "nothing was changed here; try again in a few minutes")


def _not_a_hub() -> str:
    return "check HF_ENDPOINT and the proxy, and try again"


def _offline() -> NetworkError:
    return NetworkError(
        "the Hub is not asked: offline mode is on",
        hint=f"unset {' and '.join(OFFLINE_VARIABLES)}, or use what was pulled before",
    )
