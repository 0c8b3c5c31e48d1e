"""Memory that this process holds, as the kernel counts it; nothing where there is no such count."""

from __future__ import annotations

import re
from pathlib import Path

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SYSTEM = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Of a control group, version 2 and 1: the most it may hold, what it holds, and what that consists of."""


def resident_mib() -> float | None:
    """Resident now; None where the system does not tell."""
    return _field(_STATUS, "VmRSS")


def peak_resident_mib() -> float | None:
    """The most since `forget_peak`, or since the process began; None where the system does not tell."""
    return _field(_STATUS, "VmHWM")


def free_mib() -> float | None:
    """What can still be had without swapping, by this machine and within this container; None where nothing tells."""
    known = [mib for mib in (_field(_SYSTEM, "MemAvailable"), _left_in_container()) if mib is not None]
    return min(known, default=None)


def forget_peak() -> None:
    """Start the peak anew, so that what came before does not count."""
    if _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:
            return


def _left_in_container() -> float | None:
    """What the limit of a container leaves; None where there is no container, or no limit."""
    for limit, held, parts in _LIMITS:
        if (_CONTAINER / limit).is_file():
            words = [(_CONTAINER / name).read_text() for name in (limit, held, parts)]
            if words[0].strip() == "max":
                return None
            # Files that were read lately count as held, and give way.
            files = re.search(r"^(?:total_)?inactive_file (\d+)$", words[2], re.MULTILINE)
            return max(int(words[0]) - int(words[1]) + (int(files[1]) if files else 0), 0) / MIB
    return None


def _field(table: Path, name: str) -> float | None:
    if not table.is_file():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", table.read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else None
