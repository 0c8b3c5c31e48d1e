"""DiT: a transformer over patches that adaptive layer norms tell time and class (Peebles and Xie 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_dit.config import DiTConfig
from ldm_dit.denoiser import DiT
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

__all__ = ["DiT", "DiTConfig", "register_components"]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The one component of this plugin: the denoiser `dit`."""
    return [DiT]
