"""What a repository on the Hub offers to install: fetched and read as data, pinned to a commit, run by nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from ldm_registry.authoring.manifest import FILE
from ldm_registry.errors import IntegrityError, NotFoundError, SpecError
from ldm_registry.hub import Hub, RemoteFile
from ldm_registry.registry import Registry
from ldm_registry.travel.code_review import CodeReview, review_code
from ldm_registry.travel.consent import require_allowed
from ldm_registry.travel.listing import checked_listing
from ldm_registry.travel.plugin_changes import changes as diff
from ldm_registry.travel.plugin_contents import (
    Contents,
    contents_of,
    normal,
    refused_files,
    require_manifest,
)
from ldm_registry.travel.plugin_history import current_commit, held_of, newest
from ldm_registry.travel.plugin_lock import LockedPlugin, read_locked
from ldm_registry.travel.plugin_store import Installed, installed
from ldm_registry.travel.plugin_surroundings import claims, missing, unsupplied
from ldm_registry.travel.references import parse_repository
from ldm_registry.travel.sealed_code import code_digest
from ldm_registry.travel.verified import FileFacts, check_arrived


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
    held = held_of(repository, site_folder, locked, lock)
    commit = current_commit(hub, repository, revision, held)
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
    held = held_of(seal.repository, site_folder, read_locked(lock), lock)
    if revision is None:
        revision = newest(hub.references(seal.repository), seal.revision)
    commit = current_commit(hub, seal.repository, revision, held)
    if commit == seal.commit:
        return before
    found = _fetched(hub, seal.repository, revision, commit)
    if found.name != name:
        raise IntegrityError(
            f"{found.address} is another plugin than {name}",
            [f"expected the distribution {name}, found {found.name}"],
            hint=f"`ldm plugin remove {name}` first, if you want the other one",
        )
    changes = "".join(diff(before, found.files))
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
