"""What a session starts from: an empty folder, or what an earlier session of the same run left in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldm_registry.errors import SpecError
from ldm_registry.spec import ImageSpec
from ldm_registry.streaming.folder import clear
from ldm_registry.streaming.identity import Identity
from ldm_registry.streaming.making import Maker
from ldm_registry.streaming.manifest import Manifest, read_manifest
from ldm_registry.streaming.plan import Plan, usual_shard_size


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller of a run said.

    Attributes:
        n: Images.
        batch: Images at once; None leaves it to the earlier session, or to the machine.
        shard_size: Images in a shard; None leaves it to the earlier session, or to us.
    """

    n: int
    batch: int | None
    shard_size: int | None

    def differences(self, there: Plan) -> list[str]:
        """What an earlier session cannot be gone on with for. More images are no obstacle.

        Args:
            there: Of the earlier session.
        """
        lines = [f"n: {self.n} here, {there.n} there"] if self.n < there.n else []
        for name in ("batch", "shard_size"):
            here, other = getattr(self, name), getattr(there, name)
            if here not in (None, other):
                lines.append(f"{name}: {here} here, {other} there")
        return lines


def prepared(
    identity: Identity,
    image: ImageSpec,
    wish: Wish,
    folder: Path,
    maker: Maker,
    *,
    overwrite: bool,
    interrupted: Callable[[], bool],
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest that a session goes on from, and what is to be said about it.

    Args:
        identity: Of what will run.
        image: Size of its images.
        wish: What was asked for.
        folder: Claimed.
        maker: Will make the shards, and measures how many images it makes at once.
        overwrite: Replace a run that differs.
        interrupted: Whether to leave off comparing files.

    Raises:
        SpecError: The folder holds another run.
        ResourceError: The manifest cannot be written.
    """
    earlier = read_manifest(folder)
    if earlier is not None:
        differences = [*identity.differences(earlier.identity), *wish.differences(earlier.plan)]
        if differences and not overwrite:
            raise SpecError(
                f"{folder} holds another run",
                differences,
                hint="name another folder, or replace what is there (--overwrite)",
            )
        earlier = None if differences else earlier
    if earlier is None:
        manifest, notes = _begun(identity, image, wish, folder, maker)
    else:
        manifest, notes = _gone_on(
            replace(earlier, plan=replace(earlier.plan, n=wish.n)), folder, interrupted
        )
    here = maker.surroundings()
    if here is not None and (not manifest.sessions or manifest.sessions[-1] != here):
        manifest, note = joined(manifest, here)
        notes += [note] if note else []
    manifest.write(folder)
    return manifest, tuple(notes)


def joined(manifest: Manifest, here: Mapping[str, Any]) -> tuple[Manifest, str | None]:
    """The manifest of a run that goes on in other surroundings, and what is to be said about that.

    Args:
        manifest: Lists the surroundings so far.
        here: Versions and machine that make images from now on.
    """
    note = None
    if manifest.sessions and manifest.shards:
        note = "not the versions or the machine of the last session: pixels may differ by one in 256"
    return replace(manifest, sessions=(*manifest.sessions, here)), note


def _begun(
    identity: Identity, image: ImageSpec, wish: Wish, folder: Path, maker: Maker
) -> tuple[Manifest, list[str]]:
    notes, batch = [], wish.batch
    Plan(
        wish.n, batch or 1, wish.shard_size or 1
    )  # refuses what cannot be before anything is removed or measured
    if batch is None:
        sized = maker.fitting_batch(wish.n)
        batch = sized.batch
        notes.append(str(sized))
    clear(folder)
    usual = usual_shard_size(wish.n, batch, image.channels * image.height * image.width)
    return Manifest(identity, Plan(wish.n, batch, wish.shard_size or usual), {}), notes


def _gone_on(earlier: Manifest, folder: Path, interrupted: Callable[[], bool]) -> tuple[Manifest, list[str]]:
    """The earlier manifest without the shards that are not as they were written, or hold fewer images by now."""
    plan, sound, notes = earlier.plan, {}, []
    for number, entry in earlier.shards.items():
        if number >= len(plan) or not entry.is_of(plan.shard(number)):
            continue
        damage = None if interrupted() else entry.damage(folder)
        if damage is None:
            sound[number] = entry
        else:
            notes.append(f"{damage}; it is made again")
    return replace(earlier, shards=sound), notes
