"""A plugin's repository for tests. Whatever of it runs leaves a mark; nothing may, before somebody consented."""

from __future__ import annotations

from pathlib import Path

PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "ldm-toy-travel"
version = "{version}"
description = "A toy"
requires-python = ">=3.11"
dependencies = ["ldm-registry>=0.1"]

[project.entry-points.ldm_registry]
"{point}" = "{module}"
{more}"""

CODE = """import os
from pathlib import Path

Path(os.environ.get("LDM_TEST_MARK", os.devnull)).write_text("it ran")
ANSWER = {answer}
"""


def toy_project(
    version: str = "1.0.0",
    answer: int = 42,
    point: str = "scheduler.toy-travel",
    module: str = "ldm_toy_travel",
    more: str = "",
    package: str = "ldm_toy_travel",
    source: str = "",
    **files: bytes,
) -> dict[str, bytes]:
    """Content by path."""
    manifest = PYPROJECT.format(version=version, point=point, module=module, more=more)
    return {
        "pyproject.toml": manifest.encode(),
        "README.md": b"---\nlicense: apache-2.0\n---\n# Toy\n",
        "LICENSE": b"Apache-2.0\n",
        f"{source}{package}/__init__.py": CODE.format(answer=answer).encode(),
        f"{source}{package}/deep/__init__.py": b'"""Deeper."""\n',
        f"{source}{package}/deep/table.json": b"{}\n",
        f"{source}{package}/py.typed": b"",
        "tests/test_toy.py": b"raise SystemExit\n",
        **files,
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Everything that lies in a folder, by path; locks of ours aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
