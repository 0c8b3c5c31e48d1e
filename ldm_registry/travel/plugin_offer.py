"""What a repository on the Hub offers to install: fetched and read as data, pinned to a commit, run by nobody."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import InvalidVersion, Version

from ldm_registry.authoring.manifest import FILE
from ldm_registry.errors import IntegrityError, NotFoundError, PluginError, SpecError
from ldm_registry.hub import Hub, References, RemoteFile
from ldm_registry.registry import Registry
from ldm_registry.travel.code_review import CodeReview, review_code
from ldm_registry.travel.listing import checked_listing
from ldm_registry.travel.plugin_contents import (
    Contents,
    claims,
    contents_of,
    missing,
    normal,
    refused_files,
    require_manifest,
    unsupplied,
)
from ldm_registry.travel.plugin_lock import LockedPlugin, read_locked
from ldm_registry.travel.plugin_store import Installed, installed
from ldm_registry.travel.references import is_commit, parse_repository
from ldm_registry.travel.sealed_code import code_digest
from ldm_registry.travel.verified import FileFacts, check_arrived

NO_REMOTE_CODE = "LDM_NO_REMOTE_CODE"


@dataclass(frozen=True, slots=True)
class Offer:
    """A plugin that could be installed.

    Attributes:
        repository: `org/name`.
        revision: As it was asked for.
        commit: What that stands for.
        contents: What of it is installed.
        files: The bytes that were fetched, by path in the repository; exactly these are installed.
        facts: Size and SHA-256 of each.
        digest: Of the code; what consent is given to.
        review: What reading the code has shown.
        missing: What it needs and this environment lacks.
        unsupplied: Modules that its code imports and nothing here supplies; some may be optional.
        before: What is installed now, for an update.
        changes: The code as a unified diff against what is installed now.
    """

    repository: str
    revision: str
    commit: str
    contents: Contents
    files: Mapping[str, bytes]
    facts: Mapping[str, FileFacts]
    digest: str
    review: CodeReview
    missing: tuple[str, ...]
    unsupplied: tuple[str, ...] = ()
    before: Installed | None = None
    changes: str = ""

    @property
    def name(self) -> str:
        """The distribution, in its normal form."""
        return self.contents.distribution

    @property
    def address(self) -> str:
        """The repository at the commit."""
        return f"hf://{self.repository}@{self.commit}"

    @property
    def is_known_code(self) -> bool:
        """Whether just this code is installed already, from another commit: consent was given to these bytes."""
        seal = self.before.seal if self.before else None
        return seal is not None and seal.digest == self.digest


@dataclass(frozen=True, slots=True)
class Held:
    """Where a repository stood when something of it was installed or locked."""

    name: str
    revision: str
    commit: str
    where: str


def require_allowed() -> None:
    """Stop where the environment forbids code from a Hub.

    Raises:
        IntegrityError: LDM_NO_REMOTE_CODE is set; nothing else can grant it then.
    """
    if os.environ.get(NO_REMOTE_CODE, "").strip().lower() not in ("", "0", "false", "no", "off"):
        raise IntegrityError(
            f"{NO_REMOTE_CODE} is set: no code from a Hub is fetched or installed here",
            hint="whoever set it decides; no option, spec or lock goes past it",
        )


def offer(hub: Hub, address: str, site_folder: Path, lock: Path) -> Offer | Installed:
    """Look at a plugin on the Hub.

    Args:
        hub: Where to ask.
        address: `hf://org/name@v1`; a tag or a branch is resolved to its commit.
        site_folder: Of the environment.
        lock: The lock file; it need not exist.

    Returns:
        What would be installed; or what is installed already, where it is just that commit.

    Raises:
        IntegrityError: Code from a Hub is forbidden; a tag moved; the repository is another one than it was; its
            listing, manifest or code is refused; it claims what is another's; the lock says otherwise.
        NotFoundError: No such repository, revision or plugin.
        SpecError: The address or the manifest is not valid, or another commit of it is installed.
        NetworkError: The Hub could not be asked.
    """
    require_allowed()
    repository, revision = parse_repository(address)
    locked = read_locked(lock)
    held = _held(repository, site_folder, locked, lock)
    commit = _commit(hub, repository, revision, held)
    for one in installed(site_folder):
        if one.seal is not None and one.seal.repository == repository:
            return _as_installed(one, commit)
    found = _fetched(hub, repository, revision or commit, commit)
    _require_own_name(found, site_folder)
    pinned = locked.get(found.name)
    if pinned is not None:
        _require_locked(found, pinned, lock)
    return found


def offer_update(
    hub: Hub, name: str, revision: str | None, site_folder: Path, lock: Path
) -> Offer | Installed:
    """Look at a newer state of an installed plugin.

    Args:
        hub: Where to ask.
        name: The distribution, or a component of it.
        revision: A tag, branch or commit; None is the newest version tag, or the main branch where there is none.
        site_folder: Of the environment.
        lock: The lock file.

    Returns:
        What would be installed, with `before` and `changes`; or what is installed, where nothing is newer.

    Raises:
        IntegrityError: As `offer`, or what is installed was altered.
        LdmError: As `offer`.
    """
    require_allowed()
    before = find_installed(normal(name), site_folder)
    name = before.distribution
    if before.problems or before.seal is None:
        raise IntegrityError(
            f"plugin {name} is not what was installed", before.problems, f"`ldm plugin remove {name}`"
        )
    seal = before.seal
    held = _held(seal.repository, site_folder, read_locked(lock), lock)
    if revision is None:
        revision = _newest(hub.references(seal.repository), seal.revision)
    commit = _commit(hub, seal.repository, revision, held)
    if commit == seal.commit:
        return before
    found = _fetched(hub, seal.repository, revision, commit)
    if found.name != name:
        raise IntegrityError(
            f"{found.address} is another plugin than {name}",
            [f"expected the distribution {name}, found {found.name}"],
            hint=f"`ldm plugin remove {name}` first, if you want the other one",
        )
    changes = "".join(_changes(before, found))
    kept = {field: getattr(found, field) for field in Offer.__slots__ if field not in ("before", "changes")}
    return Offer(**kept, before=before, changes=changes)


def find_installed(name: str, site_folder: Path) -> Installed:
    """A plugin that was installed from the Hub.

    Raises:
        NotFoundError: There is none of that name.
    """
    found = {one.distribution: one for one in installed(site_folder)}
    if name in found:
        return found[name]
    by_component = [one for one in found.values() if one.seal and name in _component_names(one)]
    if len(by_component) == 1:
        return by_component[0]
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        hint = "`ldm plugin list` shows what is installed"
    else:
        hint = f"{name} was not installed from the Hub: `pip uninstall {name}` removes it"
    raise NotFoundError(f"no plugin {name!a} was installed from the Hub", hint=hint)


def _component_names(one: Installed) -> set[str]:
    points = one.seal.components if one.seal else ()
    return {word for point in points for word in (point.partition(".")[2], point.replace(".", "/", 1))}


def _held(
    repository: str, site_folder: Path, locked: Mapping[str, LockedPlugin], lock: Path
) -> tuple[Held, ...]:
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


def _commit(hub: Hub, repository: str, revision: str | None, held: tuple[Held, ...]) -> str:
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


def _made_anew(repository: str, held: Held) -> IntegrityError:
    return IntegrityError(
        f"{repository} is not the repository that it was",
        [f"{held.where} names its commit {held.commit}, which it does not have any more"],
        hint="it was deleted and made anew, maybe by somebody else, or its history was rewritten; if you trust it all "
        f"the same, `ldm plugin remove {held.name}` first",
    )


def _as_installed(one: Installed, commit: str) -> Installed:
    seal = one.seal
    if one.problems or seal is None:
        raise IntegrityError(
            f"plugin {one.distribution} is installed, but is not what was installed",
            one.problems,
            hint=f"`ldm plugin remove {one.distribution}`, then install it again",
        )
    if seal.commit != commit:
        raise SpecError(
            f"another commit of plugin {one.distribution} is installed",
            [f"installed: {seal.commit} ({seal.revision})", f"asked for: {commit}"],
            hint=f"`ldm plugin update {one.distribution} --to {commit}` shows what would change",
        )
    return one


def _fetched(hub: Hub, repository: str, revision: str, commit: str) -> Offer:
    where = f"hf://{repository}@{commit}"
    listing = {file.path: file for file in checked_listing(hub.files(repository, commit), where)}
    sizes = {path: file.size for path, file in listing.items()}
    require_manifest(sizes, where)
    hostile = refused_files(sizes)
    if hostile:
        raise IntegrityError(f"{where} is refused: nothing of it was fetched", hostile)
    with TemporaryDirectory(prefix="ldm-plugin-") as folder:
        pyproject, facts = _download(hub, repository, commit, listing[FILE], Path(folder))
        contents = contents_of(pyproject, sizes, where)
        problems = claims(contents, Registry.discover().entries())
        if problems:
            raise IntegrityError(f"{where} claims what is not its own: nothing was installed", problems)
        files, known = {FILE: pyproject}, {FILE: facts}
        for path in contents.sources:
            if path != FILE:
                files[path], known[path] = _download(hub, repository, commit, listing[path], Path(folder))
    review = review_code(files)
    return Offer(
        repository,
        revision,
        commit,
        contents,
        files,
        known,
        code_digest({path: one.sha256 for path, one in known.items()}),
        review,
        tuple(missing(contents)),
        tuple(unsupplied(contents, review.imports)),
    )


def _download(
    hub: Hub, repository: str, commit: str, file: RemoteFile, folder: Path
) -> tuple[bytes, FileFacts]:
    path = hub.download(repository, commit, file.path, folder)
    facts = check_arrived(path, file)
    return path.read_bytes(), facts


def _require_own_name(found: Offer, site_folder: Path) -> None:
    """Its distribution's name must be nobody else's.

    Raises:
        IntegrityError: It is.
    """
    ours = {one.distribution: one for one in installed(site_folder)}
    if found.name in ours:
        seal = ours[found.name].seal
        owner = f"hf://{seal.repository}" if seal else "a plugin whose record is broken"
    else:
        try:
            there = metadata.distribution(found.name)
        except metadata.PackageNotFoundError:
            return
        owner = f"{found.name} {there.version}, installed by {there.read_text('INSTALLER') or 'other means'}"
    raise IntegrityError(
        f"{found.address} calls itself {found.name}, and something of that name is installed",
        [f"installed: {owner.strip()}"],
        hint=f"remove that first (`ldm plugin list` says how), if you want {found.address}",
    )


def _require_locked(found: Offer, pinned: LockedPlugin, lock: Path) -> None:
    """What a lock says about a plugin binds; it does not replace consent.

    Raises:
        IntegrityError: The lock names another repository, commit or content.
    """
    problems = [
        f"{what}: {lock} says {wanted}, found {got}"
        for what, wanted, got in (
            ("repository", pinned.repository, found.repository),
            ("commit", pinned.commit, found.commit),
            ("code digest", pinned.digest, found.digest),
        )
        if wanted != got
    ]
    if problems:
        raise IntegrityError(
            f"{found.address} is not the {found.name} that {lock} names",
            problems,
            hint=f"install hf://{pinned.repository}@{pinned.commit}, or `ldm plugin remove {found.name}` takes it out "
            "of the lock",
        )


def _newest(references: References, revision: str) -> str:
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


def _changes(before: Installed, found: Offer) -> list[str]:
    """The code as it is against the code as it would be, safe to print."""
    if before.seal is None or before.folder is None:
        return []
    old = {
        file.source: (before.folder / path).read_bytes()
        for path, file in before.seal.files.items()
        if file.source is not None
    }
    lines: list[str] = []
    for path in sorted(old.keys() | found.files.keys()):
        was, now = _lines(old.get(path, b"")), _lines(found.files.get(path, b""))
        if was != now:
            old_name = ascii_path(path) if path in old else "/dev/null"
            new_name = ascii_path(path) if path in found.files else "/dev/null"
            lines += unified_diff(was, now, old_name, new_name)
    return lines


def ascii_path(path: str) -> str:
    """A path as it is shown: letters that a terminal would act upon, or that look like others, are escaped."""
    return ascii(path)[1:-1]


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8", "backslashreplace")
    shown = [
        "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
        for line in text.split("\n")
    ]
    return [f"{line}\n" for line in shown]
