"""Denoisers that are computed, not trained: exact posterior means under a known distribution of latents."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_oracles.gaussian import GaussianConfig, GaussianDenoiser
from ldm_oracles.ideal import IdealConfig, IdealDenoiser
from ldm_oracles.mixture import GaussianMixtureConfig, GaussianMixtureDenoiser
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

__all__ = [
    "GaussianConfig",
    "GaussianDenoiser",
    "GaussianMixtureConfig",
    "GaussianMixtureDenoiser",
    "IdealConfig",
    "IdealDenoiser",
    "register_components",
]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The denoisers `gaussian`, `gaussian-mixture` and `ideal`."""
    return [GaussianDenoiser, GaussianMixtureDenoiser, IdealDenoiser]
