"""Memory that this process holds, as the kernel counts it; nothing where there is no such count."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SYSTEM = Path("/proc/meminfo")


def resident_mib() -> float | None:
    """Resident now; None where the system does not tell."""
    return _field(_STATUS, "VmRSS")


def peak_resident_mib() -> float | None:
    """The most since `forget_peak`, or since the process began; None where the system does not tell."""
    return _field(_STATUS, "VmHWM")


def free_mib() -> float | None:
    """What all processes together can still have without swapping; None where the system does not tell."""
    return _field(_SYSTEM, "MemAvailable")


def forget_peak() -> None:
    """Start the peak anew, so that what came before does not count."""
    if _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:
            return


def return_freed() -> None:
    """Hand what was freed back to the system, where the C library can: it would count as held otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _STATUS.is_file() else None
    if trim is not None:
        trim(0)


def _field(table: Path, name: str) -> float | None:
    if not table.is_file():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", table.read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else None
