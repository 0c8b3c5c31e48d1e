"""A plugin's repository for tests. Whatever of it runs leaves a mark; nothing may, before somebody consented."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ldm_registry.hub import Hub
from ldm_registry.travel.code_review import review_code
from ldm_registry.travel.plugin_contents import contents_of
from ldm_registry.travel.plugin_install import install
from ldm_registry.travel.plugin_offer import Offer, offer, offer_update
from ldm_registry.travel.plugin_store import Installed
from ldm_registry.travel.sealed_code import code_digest
from ldm_registry.travel.verified import FileFacts

REPO = "org/ldm-toy-travel"
NAME = "ldm-toy-travel"
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


@dataclass
class Place:
    """An environment to install into.

    Attributes:
        client: Of the Hub.
        site: Its site-packages.
        lock: Its lock file.
        mark: What the toy leaves when any of it runs.
    """

    client: Hub
    site: Path
    lock: Path
    mark: Path

    def offer(self, revision: str = "v1.0.0", repository: str = REPO) -> Offer:
        found = offer(self.client, f"hf://{repository}@{revision}", self.site, self.lock)
        assert isinstance(found, Offer)
        return found

    def install(self, revision: str = "v1.0.0") -> Installed:
        found = self.offer(revision)
        return install(found, found.digest, self.site, self.lock)

    def update(self, to: str | None = None) -> Offer:
        found = offer_update(self.client, NAME, to, self.site, self.lock)
        assert isinstance(found, Offer)
        return found

    def put(self, made: Offer) -> Installed:
        """Install what was offered, with consent."""
        return install(made, made.digest, self.site, self.lock)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is installed or locked, and nothing ran."""
        return not tree(self.site) and not self.lock.exists() and not self.mark.exists()


def offered(files: dict[str, bytes], commit: str = "a" * 40, before: Installed | None = None) -> Offer:
    """What a repository with these files would offer; nothing is asked of a Hub."""
    contents = contents_of(
        files["pyproject.toml"], {path: len(content) for path, content in files.items()}, "x"
    )
    chosen = {path: files[path] for path in contents.sources}
    facts = {path: FileFacts(len(text), hashlib.sha256(text).hexdigest()) for path, text in chosen.items()}
    digest = code_digest({path: one.sha256 for path, one in facts.items()})
    return Offer(
        REPO, "v1.0.0", commit, contents, chosen, facts, digest, review_code(chosen), (), before=before
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Everything that lies in a folder, by path; locks of ours aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
