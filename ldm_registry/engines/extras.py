"""Libraries that come with an extra of this package."""

from __future__ import annotations

from ldm_registry.errors import SpecError


def missing_extra(extra: str, library: str) -> SpecError:
    """The error for a library that comes with an extra of this package and is not there.

    Args:
        extra: Its name.
        library: What it brings.
    """
    return SpecError(f"{library} is not installed", hint=f'pip install "ldm-registry[{extra}]"')
