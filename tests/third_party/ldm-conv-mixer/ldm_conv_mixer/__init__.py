"""A ConvMixer as a denoiser for ldm-registry."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

from ldm_conv_mixer.denoiser import ConvMixerDenoiser


@hookimpl
def register_components() -> list[type[Component]]:
    """What the entry points in `pyproject.toml` declare, no more and no less."""
    return [ConvMixerDenoiser]
