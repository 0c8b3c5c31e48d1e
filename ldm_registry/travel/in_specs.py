"""The addresses on the Hub that a spec names, and the spec with folders of this machine in their place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ldm_registry.hub import Hub
from ldm_registry.spec import FrozenMapping, PipelineSpec
from ldm_registry.spec_paths import HUB_SCHEME, PATH_KEYS
from ldm_registry.travel.lock import LOCK, Lock, changing, read_lock, write_lock
from ldm_registry.travel.pull import Held, obtain
from ldm_registry.travel.references import Reference, parse_reference

M = TypeVar("M")


def addresses(spec: PipelineSpec) -> list[Reference]:
    """What a spec names on the Hub, each once, in order."""
    return sorted({parse_reference(text) for keys in PATH_KEYS for text in _texts(spec, keys)})


def located(spec: PipelineSpec, hub: Hub | None = None) -> PipelineSpec:
    """The same spec with a verified folder of this machine in place of every address on the Hub.

    What was pulled before costs no request. What was not is fetched: an address names one commit for ever, and
    only data is ever fetched. Each is compared with the `ldm.lock` beside the spec, where that has it.

    Args:
        spec: Left as it is.
        hub: Where to get what is not here; None is the one of the environment.

    Raises:
        LdmError: As `obtain`, or as `read_lock`.
    """
    wanted = addresses(spec)
    if not wanted:
        return spec
    lock = lock_of(spec)
    folders = {
        str(reference): str(obtain(reference, lock.checkpoints.get(reference), hub).folder)
        for reference in wanted
    }
    for keys in PATH_KEYS:
        spec = _replaced(spec, keys, folders)
    return spec


def lock_path(spec: PipelineSpec) -> Path | None:
    """Where the lock of a spec lies, or would lie; None for a spec that was made in memory."""
    return spec.source.parent / LOCK if spec.source is not None else None


def lock_of(spec: PipelineSpec) -> Lock:
    """What the lock beside a spec says; nothing where there is none.

    Raises:
        IntegrityError: It is broken.
    """
    path = lock_path(spec)
    return read_lock(path) if path is not None else Lock()


def lock_spec(spec: PipelineSpec, path: Path, hub: Hub | None = None) -> list[Held]:
    """Pull what a spec names and write down what it holds. What a lock says already stays.

    Args:
        spec: With its addresses.
        path: The lock file.
        hub: As in `located`.

    Raises:
        LdmError: As `obtain`; IntegrityError too where the lock says otherwise.
    """
    lock = read_lock(path)
    held = [obtain(reference, lock.checkpoints.get(reference), hub) for reference in addresses(spec)]
    if held:
        with changing(path):
            write_lock(path, read_lock(path).with_checkpoints({one.reference: one.files for one in held}))
    return held


def _texts(value: Any, keys: tuple[str, ...]) -> Iterator[str]:
    if not keys:
        if isinstance(value, str) and value.startswith(HUB_SCHEME):
            yield value
        return
    if keys[0] == "*":
        for item in value.values():
            yield from _texts(item, keys[1:])
    elif value is not None:
        yield from _texts(getattr(value, keys[0], None), keys[1:])


def _replaced(value: M, keys: tuple[str, ...], folders: dict[str, str]) -> M:
    new: Any = value
    if not keys:
        new = folders.get(value, value) if isinstance(value, str) else value
    elif keys[0] == "*" and isinstance(value, FrozenMapping):
        new = FrozenMapping({key: _replaced(item, keys[1:], folders) for key, item in value.items()})
    elif isinstance(value, BaseModel) and hasattr(value, keys[0]):
        before = getattr(value, keys[0])
        after = _replaced(before, keys[1:], folders)
        new = value if after is before else value.model_copy(update={keys[0]: after})
    result: M = new
    return result
