"""A checkpoint from the Hub: fetched once, whole and verified, or not at all; compared at every use.

::

    LDM_CACHE/checkpoints/org--name/<commit>/record.json    size and sha256 of every file when it arrived
    LDM_CACHE/checkpoints/org--name/<commit>/name/...       the files
    LDM_CACHE/staging/...                                   what is on its way; renamed when it is complete

Only data is fetched (`DATA_ENDINGS`); code, pickles and everything else stay where they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ldm_registry.errors import IntegrityError, LdmError, NetworkError, NotFoundError
from ldm_registry.hub import Hub, RemoteFile, is_missing_revision
from ldm_registry.hub_local import alone
from ldm_registry.json_files import read_json
from ldm_registry.spec_paths import HUB_SCHEME
from ldm_registry.travel.content import check_content
from ldm_registry.travel.listing import checked_listing
from ldm_registry.travel.lock import Files, check_against, describe_entry, read_entry
from ldm_registry.travel.references import Reference, parse_reference
from ldm_registry.travel.verified import (
    FileFacts,
    cache_root,
    check_arrived,
    differences,
    remember,
)
from ldm_registry.weight_files import PICKLES

DATA_ENDINGS = (".json", ".safetensors", ".md", ".txt", ".model")
RECORD = "record.json"
MAX_SMALL_BYTES = 64 * 2**20
"""Of a file that is no weights: vocabularies have tens of megabytes."""


@final
@dataclass(frozen=True, slots=True)
class Held:
    """A checkpoint of the Hub on this machine, complete and as it has to be.

    Attributes:
        reference: What it is.
        folder: Where its files lie.
        files: Size and digest of each, by path.
    """

    reference: Reference
    folder: Path
    files: Files


def obtain(reference: Reference, locked: Files | None = None, hub: Hub | None = None) -> Held:
    """A checkpoint's folder: what was pulled before, else from the Hub. Compared in either case.

    Once it was pulled, no request is made.

    Args:
        reference: What to get.
        locked: What a lock says that it holds; None takes it as it arrives at first, and as it was later.
        hub: Where to get it; None is the one of the environment.

    Raises:
        IntegrityError: A listing, a file, a contract or the lock disagrees; nothing is kept of what was fetched.
        NotFoundError: No such repository, or no checkpoint in it.
        NetworkError: It is not here, and the Hub cannot be asked; or the connection was cut, or the disk is full.
    """
    place = _place(reference)
    if not place.is_dir():
        hub = hub or Hub.from_environment()
        if hub.offline:
            raise NetworkError(
                f"{reference} is not on this machine, and offline mode is on",
                hint=f"`ldm pull {reference}` where there is a network; its cache is {cache_root()}",
            )
        try:
            with alone(cache_root() / "locks" / f"{_folder_name(reference)}.lock"):
                if not place.is_dir():
                    _bring(reference, locked, hub, place)
        except OSError as error:
            raise NetworkError(
                f"{reference} could not be written to {cache_root()}: {error.strerror or error}",
                hint="nothing was kept; free some space, or name another folder in LDM_CACHE",
            ) from error
    return _compared(reference, place, locked)


def local_folder(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint, wherever it is named to be.

    Args:
        checkpoint: A path, which need not exist, or an address on the Hub.

    Raises:
        LdmError: As `obtain`, or SpecError for an address that names no commit.
    """
    text = str(checkpoint)
    return obtain(parse_reference(text)).folder if text.startswith(HUB_SCHEME) else Path(checkpoint)


def held_commits(repository: str) -> list[str]:
    """The commits of a repository of which something is on this machine."""
    folder = repository_folder(repository)
    return sorted({path.name[:40] for path in folder.glob("*") if (path / RECORD).is_file()})


def repository_folder(repository: str) -> Path:
    """Where everything of one repository lies."""
    return cache_root() / "checkpoints" / repository.replace("/", "--")


def fetch(
    hub: Hub, repository: str, commit: str, files: Iterable[RemoteFile], folder: Path
) -> dict[str, FileFacts]:
    """Fetch files of a commit into a folder and compare each with the listing, small ones first.

    Args:
        hub: Where from.
        repository: `org/name`.
        commit: 40 hexadecimal digits.
        files: From `checked_listing`.
        folder: Gets the files and nothing else.

    Returns:
        Size and digest of each file, by path.

    Raises:
        IntegrityError: A file is not the one that was listed.
        NetworkError: As `Hub.download`, or there is not enough space.
    """
    wanted = sorted(files, key=lambda file: (file.size, file.path))
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(folder, wanted)
    arrived = {}
    for file in wanted:
        path = hub.download(repository, commit, file.path, folder, at_most=file.size)
        if path.is_symlink() or path.resolve() != folder.resolve() / file.path:
            raise IntegrityError(f"{repository}@{commit}: {file.path} arrived outside of its folder")
        arrived[file.path] = check_arrived(path, file)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return arrived


def _bring(reference: Reference, locked: Files | None, hub: Hub, place: Path) -> None:
    staging = cache_root() / "staging" / _folder_name(reference)
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed: we hold the lock
    try:
        _check_commit(reference, hub)
        files = _chosen(reference, hub)
        _check_locked(reference, locked, files)
        arrived = fetch(hub, reference.repository, reference.commit, files, staging / "all")
        inner = staging / "all" / reference.folder
        prefix = f"{reference.folder}/" if reference.folder else ""
        facts = {path.removeprefix(prefix): held for path, held in arrived.items()}
        check_against(reference, locked, facts)
        check_content(reference, inner, facts)
        made = staging / "made"
        made.mkdir()
        os.replace(inner, made / reference.name)
        record = {"version": 1, **describe_entry(reference, facts)}
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for path, held in facts.items():
        remember(place / reference.name / path, held)


def _check_commit(reference: Reference, hub: Hub) -> None:
    try:
        commit = hub.commit_of(reference.repository, reference.commit)
    except NotFoundError as error:
        if not is_missing_revision(error):
            raise
        now = hub.commit_of(reference.repository)  # raises where the repository is gone too
        raise IntegrityError(
            f"{reference.repository} has no commit {reference.commit}",
            [f"expected {reference.commit}", f"found {now} on its main branch"],
            hint="the address is mistyped, or the repository was deleted and made anew: then ask who did it",
        ) from None
    if commit != reference.commit:
        raise IntegrityError(
            f"{reference} was answered with another commit",
            [f"expected {reference.commit}", f"found {commit}"],
            hint="do not use this server",
        )


def _chosen(reference: Reference, hub: Hub) -> list[RemoteFile]:
    listed = checked_listing(hub.files(reference.repository, reference.commit), str(reference))
    prefix = f"{reference.folder}/" if reference.folder else ""
    inside = [file for file in listed if file.path.startswith(prefix)]
    chosen = [file for file in inside if file.path.lower().endswith(DATA_ENDINGS)]
    large = [file for file in chosen if not _is_weights(file.path) and file.size > MAX_SMALL_BYTES]
    if large:
        raise IntegrityError(
            f"{reference} was refused: its listing is not that of a component",
            [f"{file.path}: {file.size} bytes; at most {MAX_SMALL_BYTES} are allowed" for file in large],
        )
    pickles = sorted(file.path for file in inside if file.path.lower().endswith(PICKLES))
    if pickles and not any(_is_weights(file.path) for file in chosen):
        raise IntegrityError(
            f"{reference} has no safetensors; a pickle can run code and is not fetched",
            pickles[:8],
            hint="ask its author for safetensors",
        )
    inner = {file.path.removeprefix(prefix) for file in chosen}
    if not any(name.endswith(".json") and "/" not in name for name in inner):
        raise _no_checkpoint(reference, inside, inner)
    return chosen


def _no_checkpoint(reference: Reference, inside: Sequence[RemoteFile], inner: Iterable[str]) -> NotFoundError:
    folders = sorted({name.rpartition("/")[0] for name in inner if name.endswith("/config.json")})
    names = [file.path for file in inside]
    hint = "name another repository, or another folder of it"
    if folders:
        hint = f"name one of its folders: --folder {' or '.join(folders[:4])}"
    elif "pyproject.toml" in names:
        hint = f"it is a plugin: `ldm plugin install hf://{reference.repository}@{reference.commit}`"
    return NotFoundError(
        f"{reference} holds no checkpoint: there is no JSON file at its top", sorted(names)[:12], hint
    )


def _is_weights(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _check_locked(reference: Reference, locked: Files | None, files: Sequence[RemoteFile]) -> None:
    """Compare the listing with the lock before anything is fetched."""
    if locked is None:
        return
    prefix = f"{reference.folder}/" if reference.folder else ""
    listed = {}
    for file in files:
        path = file.path.removeprefix(prefix)
        known = locked.get(path)
        # The listing has no sha256 of a small file; that one is compared when it has arrived.
        listed[path] = FileFacts(file.size, file.sha256 or (known.sha256 if known else "unknown"))
    check_against(reference, locked, listed)


def _check_space(folder: Path, files: Iterable[RemoteFile]) -> None:
    needed, free = sum(file.size for file in files), _free_bytes(folder)
    if needed > free:
        raise NetworkError(
            f"no space is left on the disk: {needed} bytes are needed, {free} are free",
            hint="nothing was kept; free some, or name a folder on another disk in LDM_CACHE",
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _compared(reference: Reference, place: Path, locked: Files | None) -> Held:
    try:
        document = read_json(place / RECORD, max_bytes=2**24)
        document.pop("version", None)
        recorded, files = read_entry(document)
        problems = [] if recorded == reference else [f"expected a record of {reference}, found {recorded}"]
    except (LdmError, ValueError) as error:
        problems, files = [str(error).splitlines()[0]], {}
    folder = place / reference.name
    if not problems:
        check_against(reference, locked, files)
        problems = differences(folder, files)
    if problems:
        raise IntegrityError(
            f"{reference} is no longer what it was when it was pulled",
            problems,
            hint=f"remove {place} and pull it again; nothing was loaded",
        )
    return Held(reference, folder, files)


def _place(reference: Reference) -> Path:
    suffix = f"--{reference.folder.replace('/', '--')}" if reference.folder else ""
    return repository_folder(reference.repository) / f"{reference.commit}{suffix}"


def _folder_name(reference: Reference) -> str:
    place = _place(reference)
    return f"{place.parent.name}--{place.name}"
