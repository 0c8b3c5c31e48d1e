"""What the processor tells of itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


def name() -> str:
    """Its name, such as `AMD EPYC`; where there is none, that of its architecture."""
    return _stated().get("model name") or platform.processor() or platform.machine()


def maker() -> str:
    """Who made it, as the instruction CPUID puts it: `GenuineIntel`, `AuthenticAMD`; empty where nobody says."""
    return _stated().get("vendor_id") or platform.processor().partition(", ")[2]


@cache
def _stated() -> Mapping[str, str]:
    """The lines of Linux about the first processor."""
    if not _LINUX.is_file():
        return {}
    first = _LINUX.read_text("utf-8", "replace").split("\n\n", 1)[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {field.strip(): value.strip() for field, _, value in fields}
