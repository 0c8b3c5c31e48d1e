"""The steps of a publication on the Hub, the same for checkpoints and plugins.

One commit holds all files or none. The version's tag is set last, when every byte of the commit was fetched again
and compared; so a publication that is cut short, or killed, leaves no version that names anything but the complete
verified thing. To do it again is always safe: what is there already is not uploaded a second time.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import final

from ldm_registry.errors import IntegrityError, LdmError, NotFoundError, SpecError
from ldm_registry.hub import Hub, References, RemoteFile, clean
from ldm_registry.travel.listing import checked_listing
from ldm_registry.travel.verified import FileFacts, cache_root, check_arrived, facts_of

VERSION = re.compile(r"[0-9][A-Za-z0-9]*(?:[.+-][A-Za-z0-9]+)*", re.ASCII)
THEIRS = frozenset({".gitattributes"})
"""Files that the Hub puts into a repository by itself."""
HARMLESS = THEIRS | {"README.md", "LICENSE", ".gitignore"}
"""What a repository may hold that nothing was published in yet."""


@final
@dataclass(frozen=True)
class Parcel:
    """What is published.

    Attributes:
        what: In words: `checkpoint`, `plugin`.
        version: Without the `v` of its tag.
        files: By path: where each lies, or what it holds. The repository will hold these and no others.
        mark: The file by which a repository is known to hold a thing of this sort.
        where_version: Where a user states the version.
    """

    what: str
    version: str
    files: Mapping[str, Path | bytes]
    mark: str
    where_version: str

    @property
    def tag(self) -> str:
        """Of its version."""
        return f"v{self.version}"

    @cached_property
    def facts(self) -> Mapping[str, FileFacts]:
        """Size and digest of each file, as they were before anything was uploaded."""
        return {path: facts_before(content) for path, content in sorted(self.files.items())}


@final
@dataclass(frozen=True, slots=True)
class Published:
    """What a publication came to.

    Attributes:
        repository: `org/name`.
        tag: Of the version.
        commit: That the tag stands for.
        uploaded: Paths that were new or had changed; empty where all was there already.
        removed: Paths that the repository held before and holds no more.
    """

    repository: str
    tag: str
    commit: str
    uploaded: tuple[str, ...]
    removed: tuple[str, ...]


def check_version(version: str, where: str) -> str:
    """A version that can be a tag.

    Raises:
        SpecError: It cannot.
    """
    if len(version) > 64 or not VERSION.fullmatch(version) or version.endswith(".lock"):
        raise SpecError(
            f"{ascii(version)[:80]} is no version",
            [f"it is stated by {where}"],
            hint="write one such as 1.0.0",
        )
    return version


def publish(hub: Hub, repository: str, parcel: Parcel, *, private: bool = False) -> Published:
    """Make a repository hold a parcel, and name the commit by the parcel's version.

    Args:
        hub: With a token that may write there.
        repository: `org/name`; made where there is none.
        parcel: Scanned.
        private: Only the owners may see it; a public repository is refused.

    Raises:
        IntegrityError: The version is published already with other content, the repository holds something else or
            is public, or what came back is not what was sent.
        NetworkError: The Hub could not be reached, or refused.
    """
    if not hub.has_token:
        hub.account()
    _ = parcel.facts  # taken before anything is sent, so that a file that changes meanwhile is found out
    held = _references(hub, repository)
    if held is not None:
        _require_private(hub, repository, private)
        if parcel.tag in held.tags:
            return _again(hub, repository, parcel, held.tags[parcel.tag])
    else:
        with _unless("Nothing was published."):
            hub.create_repository(repository, private=private)
            _require_private(hub, repository, private)
    with _unless(f"No version was published. {_AGAIN}"):
        head = hub.commit_of(repository)
        there = _listed(hub, repository, head)
        _require_same_sort(repository, parcel, there)
        changed, removed = _differing(parcel, there), _surplus(parcel, there)
        commit = head
        if changed or removed:
            commit = hub.commit(
                repository,
                {path: parcel.files[path] for path in changed},
                f"{parcel.tag}",
                parent=head,
                deleted=removed,
            )
    with _unless(f"The files are on the Hub, but no version names them. {_AGAIN}"):
        verify(hub, repository, commit, parcel)
    with _unless(
        f"The files are on the Hub, verified; it is not known whether {parcel.tag} was set. {_AGAIN}"
    ):
        hub.tag(repository, parcel.tag, commit)
        _require_tag(hub, repository, parcel.tag, commit)
    return Published(repository, parcel.tag, commit, changed, removed)


_AGAIN = "The same command again goes on from where this stopped, and uploads nothing twice."


def verify(hub: Hub, repository: str, commit: str, parcel: Parcel) -> None:
    """Fetch every file of a commit again, into an empty folder, and compare it with what was sent.

    Raises:
        IntegrityError: A file is missing, too many, or not what was sent.
        NetworkError: It could not be fetched.
    """
    there = _listed(hub, repository, commit)
    _require_equal(_wrong(parcel, there), repository, commit)
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix="published-", dir=root))
    try:
        wrong = []
        for path, facts in parcel.facts.items():
            arrived = hub.download(repository, commit, path, folder)
            found = check_arrived(arrived, there[path])
            if found != facts:
                wrong.append(f"{path}: sent {facts.size} bytes of sha256 {facts.sha256}, got {found}")
            arrived.unlink()  # one large file at a time is enough
        _require_equal(wrong, repository, commit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _again(hub: Hub, repository: str, parcel: Parcel, commit: str) -> Published:
    """A version that is there already: the same content is no error."""
    there = _listed(hub, repository, commit)
    wrong = _wrong(parcel, there)
    if wrong:
        raise IntegrityError(
            f"{repository}: {parcel.tag} is published already, with other content",
            wrong,
            hint=f"a version never changes; give the new content a new one, such as {_next(parcel.version)}, "
            f"by {parcel.where_version}",
        )
    verify(hub, repository, commit, parcel)
    return Published(repository, parcel.tag, commit, (), ())


def _references(hub: Hub, repository: str) -> References | None:
    try:
        return hub.references(repository)
    except NotFoundError:
        return None


def _require_private(hub: Hub, repository: str, private: bool) -> None:
    if private and not hub.is_private(repository):
        raise IntegrityError(
            f"{repository} is public, and --private was asked for",
            hint="make it private in its settings on the Hub, or choose another name; nothing was uploaded",
        )


def _listed(hub: Hub, repository: str, commit: str) -> dict[str, RemoteFile]:
    listing = hub.files(repository, commit)
    return {file.path: file for file in checked_listing(listing, f"{repository}@{commit}")}


def _require_same_sort(repository: str, parcel: Parcel, there: Mapping[str, RemoteFile]) -> None:
    """A repository that holds other things would lose them."""
    others = sorted(there.keys() - HARMLESS)
    if others and parcel.mark not in there:
        raise IntegrityError(
            f"{repository} holds something else than a {parcel.what}",
            [f"{clean(path)}" for path in others[:12]],
            hint=f"every file of a repository belongs to its one {parcel.what}; choose a repository of its own",
        )


def _wrong(parcel: Parcel, there: Mapping[str, RemoteFile]) -> list[str]:
    return [
        *(
            f"{path}: {'another content' if path in there else 'missing'} on the Hub"
            for path in _differing(parcel, there)
        ),
        *(f"{path}: only on the Hub" for path in _surplus(parcel, there)),
    ]


def _differing(parcel: Parcel, there: Mapping[str, RemoteFile]) -> tuple[str, ...]:
    return tuple(
        path
        for path, facts in parcel.facts.items()
        if path not in there or not _is_same(there[path], facts, parcel.files[path])
    )


def _surplus(parcel: Parcel, there: Mapping[str, RemoteFile]) -> tuple[str, ...]:
    return tuple(sorted(there.keys() - parcel.files.keys() - THEIRS))


def _is_same(remote: RemoteFile, facts: FileFacts, content: Path | bytes) -> bool:
    if remote.size != facts.size:
        return False
    if remote.sha256 is not None:
        return remote.sha256 == facts.sha256
    return remote.blob == _git_blob(content, facts.size, len(remote.blob))


def _git_blob(content: Path | bytes, size: int, digits: int) -> str:
    digest = hashlib.sha256() if digits == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    digest.update(content if isinstance(content, bytes) else content.read_bytes())
    return digest.hexdigest()


def facts_before(content: Path | bytes) -> FileFacts:
    """Size and digest of what is about to be published."""
    if isinstance(content, bytes):
        return FileFacts(len(content), hashlib.sha256(content).hexdigest())
    return facts_of(content)


def _require_equal(wrong: list[str], repository: str, commit: str) -> None:
    if wrong:
        raise IntegrityError(
            f"{repository}@{commit} does not hold what was sent",
            wrong,
            hint="a file that changed while it was uploaded, or a Hub that altered it",
        )


def _require_tag(hub: Hub, repository: str, tag: str, commit: str) -> None:
    held = hub.references(repository).tags.get(tag)
    if held != commit:
        raise IntegrityError(
            f"{repository}: {tag} stands for {held}, expected {commit}",
            hint="somebody else published meanwhile; look at the repository before you try again",
        )


@contextmanager
def _unless(state: str) -> Iterator[None]:
    """Add to an error what state it leaves behind."""
    try:
        yield
    except LdmError as error:
        hint = f"{error.hint}\n{state}" if error.hint else state
        raise type(error)(error.summary, error.problems, hint) from error


def _next(version: str) -> str:
    """The same version, one later in its last number."""
    head, number, tail = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", version).groups()  # type: ignore[union-attr]  # it has a digit
    return f"{head}{int(number) + 1}{tail}"
