"""Hashed pieces of a prompt as a text embedding for ldm-registry."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

from ldm_hashed_trigrams.conditioner import HashedTrigramsConditioner


@hookimpl
def register_components() -> list[type[Component]]:
    """What the entry points in `pyproject.toml` declare, no more and no less."""
    return [HashedTrigramsConditioner]
