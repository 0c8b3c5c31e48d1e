from __future__ import annotations

from pathlib import Path

import pytest

from ldm_registry.costs import resident_memory
from ldm_registry.costs.resident_memory import MIB, free_mib


@pytest.mark.parametrize(
    ("names", "limit", "expected"),
    [
        (("memory.max", "memory.current", "memory.stat"), str(512 * MIB), 512 - 200 + 50),
        (("memory.max", "memory.current", "memory.stat"), "max", 1000),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            str(512 * MIB),
            512 - 200 + 50,
        ),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            str(2**63 - 4096),
            1000,
        ),
        ((), "", 1000),
    ],
)
def test_free_memory_is_what_the_machine_and_the_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], limit: str, expected: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       9999999 kB\nMemAvailable:   {1000 * 1024} kB\n")
    held = f"{200 * MIB}\n"
    parts = f"cache 1\ninactive_file {50 * MIB}\nfile 7\n"
    for name, content in zip(names, (f"{limit}\n", held, parts), strict=len(names) == 3):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(resident_memory, "_SYSTEM", meminfo)
    monkeypatch.setattr(resident_memory, "_CONTAINER", tmp_path)
    assert free_mib() == pytest.approx(expected)
