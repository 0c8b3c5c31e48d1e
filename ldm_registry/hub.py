"""The Hugging Face Hub, as far as it is used here: a small typed client over `huggingface_hub`.

Only this module and those that begin with `hub_` import it.

Address, token and folders are handed over, never read from the library's own constants. What the library raises
becomes one of our errors (`hub_errors`), and what it logs is not shown: it names pre-signed addresses. Nothing that is
downloaded is trusted here; `travel` compares it with what it has to be.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from ldm_registry.errors import IntegrityError, LdmError, NetworkError, NotFoundError
from ldm_registry.hub_calls import measuring, within
from ldm_registry.hub_errors import NO_HUB, OFFLINE_VARIABLES, offline_error, ours, status_of
from ldm_registry.hub_errors import clean as clean
from ldm_registry.hub_values import Account as Account
from ldm_registry.hub_values import Found as Found
from ldm_registry.hub_values import Listing as Listing
from ldm_registry.hub_values import References as References
from ldm_registry.hub_values import RemoteFile as RemoteFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_LISTED = 20_000
"""Entries of a file listing that are read before it is given up."""

_SHORT_ANSWER_S = 10.0
_LONG_ANSWER_S = 120.0
_SLOWEST_UPLOAD_BYTES_PER_S = 20_000
_PAUSES_S = (1.0, 3.0)
_PASSING = (408, 429, 500, 502, 503, 504)


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
            raise NetworkError(f"{what}: the server named no commit", hint=NO_HUB)
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

    def download(
        self, repository: str, commit: str, path: str, folder: Path, *, at_most: int | None = None
    ) -> Path:
        """Fetch one file of a commit into a folder, under its own path. What arrives is not checked.

        Args:
            repository: `org/name`.
            commit: 40 hexadecimal digits.
            path: Checked beforehand to stay inside the folder.
            folder: Gets the file, and the library's notes under `.cache`.
            at_most: Bytes; a server that sends more is left. None takes everything.

        Raises:
            IntegrityError: More came than was announced.
            NotFoundError: No such file.
            NetworkError: The connection was cut, the disk is full, or as `commit_of`.
        """
        what = f"{repository}@{commit}: {path}"
        with self._translated(what):
            return Path(
                self._api().hf_hub_download(
                    repository,
                    path,
                    revision=commit,
                    local_dir=folder,
                    etag_timeout=_SHORT_ANSWER_S,
                    tqdm_class=measuring(what, at_most),
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
            raise offline_error()
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
                if cause is None or status_of(cause) not in (*_PASSING, None):
                    raise
                time.sleep(pause_s)
        return self._asked(what, ask, _LONG_ANSWER_S)

    def _asked(self, what: str, ask: Callable[[HfApi], T], limit_s: float) -> T:
        api = self._api()
        with self._translated(what):
            return within(limit_s, lambda: ask(api))

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        library = logging.getLogger("huggingface_hub")
        level = library.level
        library.setLevel(logging.ERROR)  # each retry would be a warning with the whole address
        try:
            yield
        except LdmError:
            raise
        except Exception as error:
            raise ours(error, what, self._token) from error
        finally:
            library.setLevel(level)


def is_missing_revision(error: NotFoundError) -> bool:
    """Whether it is the branch, tag or commit that was not found, in a repository that is there."""
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error.__cause__, RevisionNotFoundError)


def is_offline() -> bool:
    """Whether the environment forbids to ask the Hub anything."""
    return any(
        os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in OFFLINE_VARIABLES
    )
