"""What of the Hub's library is used without asking a Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_home() -> Path:
    """Where the Hub's tools keep things on this machine: HF_HOME, else `huggingface` in the user's cache."""
    home = os.environ.get("HF_HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).expanduser() if home else Path(caches) / "huggingface"


def front_matter(fields: Mapping[str, Any]) -> str:
    """The YAML at the head of a model card, as the Hub reads it.

    Args:
        fields: `license`, `library_name`, `tags`, `base_model` and others of the Hub's.
    """
    from huggingface_hub import ModelCardData

    return str(ModelCardData(**fields).to_yaml())


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock on a file; other processes wait, and the end of a process lets it go.

    Args:
        lock: Made where it is missing.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # public, but not typed as such

    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        yield
