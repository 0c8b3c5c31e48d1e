"""Installed code under seal: a folder that holds exactly what its record says, and is checked before it is imported.

A sealed folder lies in `ldm-plugins.d/<plugin>/<seal>/` beside the other installed packages, and `<seal>` is the
SHA-256 of its record, `ldm-plugin.json`, which holds the SHA-256 of every other file. So the one line that switches
the folder on (see `plugin_store`) pins every byte in it. In each package an empty *file* called `__pycache__` stands
where Python keeps byte code: none is ever written, and none that somebody put there is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath
from typing import Any

from ldm_registry.errors import IntegrityError
from ldm_registry.json_files import read_json

STORE = "ldm-plugins.d"
RECORD = "ldm-plugin.json"
BYTE_CODE = "__pycache__"
MAX_RECORD_BYTES = 2**20
FORMAT = 1
TEXTS = ("distribution", "version", "repository", "revision", "commit", "digest")


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One file of a sealed folder.

    Attributes:
        size: Bytes.
        sha256: Hexadecimal.
        source: Its path in the repository; None for what was made here.
    """

    size: int
    sha256: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Seal:
    """The record of an installed plugin.

    Attributes:
        distribution: Its name.
        version: Of the distribution.
        repository: `org/name` on the Hub.
        revision: As it was asked for: a tag, a branch or a commit.
        commit: What that stood for.
        digest: Of the code, as it was consented to.
        components: `kind.name` of each.
        files: By path inside the folder.
    """

    distribution: str
    version: str
    repository: str
    revision: str
    commit: str
    digest: str
    components: tuple[str, ...]
    files: Mapping[str, SealedFile]

    def dump(self) -> bytes:
        """The record as it is stored: the same seal gives the same bytes."""
        document = {
            "format": FORMAT,
            "distribution": self.distribution,
            "version": self.version,
            "repository": self.repository,
            "revision": self.revision,
            "commit": self.commit,
            "digest": self.digest,
            "components": list(self.components),
            "files": {
                path: {"size": file.size, "sha256": file.sha256, "source": file.source}
                for path, file in sorted(self.files.items())
            },
        }
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()

    @property
    def name(self) -> str:
        """The folder's name: SHA-256 of the record."""
        return hashlib.sha256(self.dump()).hexdigest()

    @property
    def sources(self) -> dict[str, str]:
        """SHA-256 by path in the repository."""
        return {file.source: file.sha256 for file in self.files.values() if file.source is not None}


def code_digest(files: Mapping[str, str]) -> str:
    """The digest that consent is given to.

    Args:
        files: SHA-256 in hexadecimal, by path in the repository.

    Returns:
        `sha256:` and the SHA-256 of the lines `<sha256>  <path>`, sorted by path; what `sha256sum` over the sorted
        files prints, hashed.
    """
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def read_seal(folder: Path) -> Seal:
    """The record of a sealed folder, if it is one.

    Raises:
        NotFoundError: There is none.
        IntegrityError: It is not what the folder's name, or its own digest, says.
    """
    document = read_json(folder / RECORD, max_bytes=MAX_RECORD_BYTES)
    try:
        seal = _seal(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(folder, [f"{RECORD} is no record of a plugin: {error!r}"]) from error
    problems = []
    if seal.name != folder.name:
        problems.append(f"{RECORD}: sha256 {seal.name}, expected {folder.name}")
    if seal.digest != (found := code_digest(seal.sources)):
        problems.append(f"{RECORD}: its files have the digest {found}, it says {seal.digest}")
    if problems:
        raise _broken(folder, problems)
    return seal


def altered(folder: Path, seal: Seal) -> list[str]:
    """Every difference between a folder and its record, file by file.

    Args:
        folder: Of the plugin.
        seal: Its record.
    """
    found = dict(_walk(folder, folder))
    found.pop(RECORD, None)
    problems = [f"{path!a}: not part of the plugin" for path in sorted(found.keys() - seal.files.keys())]
    for path, expected in sorted(seal.files.items()):
        mode = found.get(path)
        if mode is None:
            problems.append(f"{path!a}: missing")
        elif not stat.S_ISREG(mode):
            problems.append(f"{path!a}: not a plain file")
        elif (size := (folder / path).stat().st_size) != expected.size:
            problems.append(f"{path!a}: {size} bytes, expected {expected.size}")
        elif (sha256 := hashlib.sha256((folder / path).read_bytes()).hexdigest()) != expected.sha256:
            problems.append(f"{path!a}: sha256 {sha256}, expected {expected.sha256}")
    return problems


def require_sealed(module: str) -> None:
    """Check the sealed folder that a module would be imported from; nothing is imported.

    Args:
        module: Dotted name. One that comes from elsewhere passes.

    Raises:
        IntegrityError: The folder is not what was installed.
    """
    folder = sealed_folder_of(module)
    if folder is None:
        return
    problems = altered(folder, read_seal(folder))
    if problems:
        raise _broken(folder, problems)


def sealed_folder_of(module: str) -> Path | None:
    """The sealed folder that a module would be imported from."""
    spec = PathFinder.find_spec(module.partition(".")[0])
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    for place in map(Path, places):
        for above in place.parents:
            if above.parent.parent.name == STORE:
                return above
    return None


def _seal(document: Mapping[str, Any]) -> Seal:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, expected {FORMAT}")
    files = {path: SealedFile(**values) for path, values in document["files"].items()}
    for path in files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != path:
            raise ValueError(f"{path!a} is no path inside the folder")
    texts = {key: str(document[key]) for key in TEXTS}
    return Seal(**texts, components=tuple(map(str, document["components"])), files=files)


def _walk(top: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """(path, mode) of everything that is no folder; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(top, path)
            else:
                yield path.relative_to(top).as_posix(), entry.stat(follow_symlinks=False).st_mode


def _broken(folder: Path, problems: list[str]) -> IntegrityError:
    name = folder.parent.name
    return IntegrityError(
        f"plugin {name} is not what was installed: its code is not used",
        [*problems, f"it lies in {folder}"],
        hint=f"`ldm plugin remove {name}`, then install it again",
    )
