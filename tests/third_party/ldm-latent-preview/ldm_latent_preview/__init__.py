"""A linear preview of latents as a decoder for ldm-registry."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

from ldm_latent_preview.decoder import LatentPreviewDecoder


@hookimpl
def register_components() -> list[type[Component]]:
    """What the entry points in `pyproject.toml` declare, no more and no less."""
    return [LatentPreviewDecoder]
