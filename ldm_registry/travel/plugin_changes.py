"""What an update changes in the code, shown so that it cannot steer a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import unified_diff

from ldm_registry.travel.plugin_store import Installed


def changes(before: Installed, files: Mapping[str, bytes]) -> list[str]:
    """The code as it is against the code as it would be: lines of a unified diff, safe to print.

    Args:
        before: What is installed; unaltered.
        files: What would be installed, by path in the repository.
    """
    if before.seal is None or before.folder is None:
        return []
    old = {
        file.source: (before.folder / path).read_bytes()
        for path, file in before.seal.files.items()
        if file.source is not None
    }
    lines: list[str] = []
    for path in sorted(old.keys() | files.keys()):
        was, now = _lines(old.get(path, b"")), _lines(files.get(path, b""))
        if was != now:
            old_name = ascii_path(path) if path in old else "/dev/null"
            new_name = ascii_path(path) if path in files else "/dev/null"
            lines += unified_diff(was, now, old_name, new_name)
    return lines


def ascii_path(path: str) -> str:
    """A path as it is shown: letters that a terminal would act upon, or that look like others, are escaped."""
    return ascii(path)[1:-1]


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8", "backslashreplace")
    shown = [
        "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
        for line in text.split("\n")
    ]
    return [f"{line}\n" for line in shown]
