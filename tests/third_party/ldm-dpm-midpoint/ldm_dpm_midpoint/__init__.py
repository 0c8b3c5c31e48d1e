"""The single-step DPM-Solver of second order for ldm-registry."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

from ldm_dpm_midpoint.scheduler import DpmMidpointScheduler


@hookimpl
def register_components() -> list[type[Component]]:
    """What the entry points in `pyproject.toml` declare, no more and no less."""
    return [DpmMidpointScheduler]
