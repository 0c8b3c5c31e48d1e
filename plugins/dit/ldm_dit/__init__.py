"""Transformers over patches: DiT (Peebles and Xie 2023), told a class, and PixArt (Chen et al. 2023), told a text."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_dit.config import DiTConfig
from ldm_dit.denoiser import DiT
from ldm_dit.pixart import PixArt
from ldm_dit.pixart_config import PixArtConfig
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

__all__ = ["DiT", "DiTConfig", "PixArt", "PixArtConfig", "register_components"]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The components of this plugin: the denoisers `dit` and `pixart`."""
    return [DiT, PixArt]
