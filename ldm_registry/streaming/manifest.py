"""`manifest.json`: what a run is of, and which of its shards are finished. Replaced as a whole with every shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ldm_registry.digests import sha256
from ldm_registry.errors import SpecError
from ldm_registry.json_files import read_json
from ldm_registry.streaming.identity import Identity
from ldm_registry.streaming.plan import Plan, Shard
from ldm_registry.streaming.whole_file import written_whole

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished shard.

    Attributes:
        file: Its name.
        first: Index of its first image.
        count: Images.
        bytes: Of the file.
        sha256: Of the file, hexadecimal.
    """

    file: str
    first: int
    count: int
    bytes: int
    sha256: str

    def is_of(self, shard: Shard) -> bool:
        """Whether it lists the very images that a plan has for the shard."""
        images = range(self.first, self.first + self.count)
        return self.file == shard.file and images == shard.images

    def damage(self, folder: Path) -> str | None:
        """How the file differs from what was written; None where it does not."""
        path = folder / self.file
        if not path.is_file():
            return f"{self.file} is missing"
        if (size := path.stat().st_size) != self.bytes:
            return f"{self.file} has {size} bytes instead of {self.bytes}"
        return None if sha256(path) == self.sha256 else f"{self.file} was changed"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A run and what there is of it.

    Attributes:
        identity: What it is of.
        plan: Images, batch and shard size.
        shards: The finished ones, by number.
        sessions: Versions and machine of each session, where they changed.
    """

    identity: Identity
    plan: Plan
    shards: Mapping[int, Entry]
    sessions: tuple[Mapping[str, Any], ...] = ()

    @property
    def whole(self) -> int:
        """Images in finished shards."""
        return sum(entry.count for entry in self.shards.values())

    def with_shard(self, number: int, entry: Entry) -> Manifest:
        """The same with one shard more."""
        return replace(self, shards={**self.shards, number: entry})

    def write(self, folder: Path) -> None:
        """Replace the file in one step.

        Raises:
            ResourceError: The disk is full, or does not let itself be written to.
        """
        ordered = dict(sorted(self.shards.items()))
        document = {
            "format": FORMAT,
            **asdict(self.plan),
            **asdict(self.identity),
            "sessions": list(self.sessions),
            "shards": [asdict(entry) for entry in ordered.values()],
        }
        with written_whole(folder / MANIFEST) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an earlier session; None where there is none.

    Raises:
        SpecError: It is not a manifest that this version reads.
        CheckpointError: It is not JSON.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    document = read_json(path, max_bytes=MAX_MANIFEST_BYTES)
    try:
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}; expected {FORMAT}")
        plan = Plan(int(document["n"]), int(document["batch"]), int(document["shard_size"]))
        identity = Identity(
            str(document["spec_sha256"]), str(document["spec"]), dict(document["parts_sha256"])
        )
        entries = [Entry(**entry) for entry in document["shards"]]
        shards = {entry.first // plan.shard_size: entry for entry in entries}
        return Manifest(identity, plan, shards, tuple(document["sessions"]))
    except (KeyError, TypeError, ValueError, SpecError) as error:
        raise SpecError(
            f"{path} is not the manifest of a streamed run",
            [f"{type(error).__name__}: {error}"],
            hint="name another folder",
        ) from error
