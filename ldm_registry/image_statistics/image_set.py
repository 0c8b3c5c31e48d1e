"""Which shards a set of images consists of: a streamed run, a folder of tars, or a single one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.streaming.manifest import MANIFEST, Entry, Manifest, read_manifest

MOST_PROBLEMS = 8


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A tar.

    Attributes:
        path: Absolute.
        sha256: What its manifest says; None where there is none.
        images: Indices of its images in the run; None where they have none.
    """

    path: Path
    sha256: str | None = None
    images: range | None = None


def shards_of(source: Path) -> tuple[ShardFile, ...]:
    """The shards of a set, in order.

    Args:
        source: The folder of a streamed run, whose finished shards are taken; any other folder, whose tars are taken in
            the order of their names; or a tar.

    Raises:
        NotFoundError: There is nothing of the kind.
        SpecError: The manifest is not one that this version reads, or lists shards that its run does not have.
    """
    source = source.resolve()
    if source.is_file():
        return (ShardFile(source),)
    manifest = read_manifest(source) if source.is_dir() else None
    if manifest is not None:
        _check(manifest, source)
        found = tuple(
            ShardFile(source / entry.file, entry.sha256, range(entry.first, entry.first + entry.count))
            for _, entry in sorted(manifest.shards.items())
        )
    else:
        found = tuple(ShardFile(path) for path in sorted(source.glob("*.tar")))
    if not found:
        what = "no shard is finished yet" if manifest is not None else f"no {MANIFEST}, no *.tar"
        raise NotFoundError(
            f"there are no images at {source}",
            [what] if source.exists() else [],
            hint="give the folder of `ldm run --n`, a folder of WebDataset tars, or one tar",
        )
    return found


def _check(manifest: Manifest, folder: Path) -> None:
    """Refuse shards under other names, or of other images, than the run has: they may lie anywhere, or overlap."""
    strange = [
        repr(entry)[:200] for number, entry in manifest.shards.items() if not _is_due(manifest, number, entry)
    ]
    if strange:
        more = len(strange) - MOST_PROBLEMS
        raise SpecError(
            f"{folder / MANIFEST} lists shards that its run does not have",
            [*strange[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])],
            hint="without the manifest, the folder is read as one of tars",
        )


def _is_due(manifest: Manifest, number: int, entry: Entry) -> bool:
    try:
        return 0 <= number < len(manifest.plan) and entry.is_of(manifest.plan.shard(number))
    except TypeError:
        return False
