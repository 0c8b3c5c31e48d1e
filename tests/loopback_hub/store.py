"""What the loopback Hub holds: repositories with commits, branches and tags, large files, users."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import yaml

LARGE_ENDINGS = (".safetensors", ".bin", ".png", ".tar", ".gz", ".whl", ".so", ".pt", ".pkl")


def is_large(path: str) -> bool:
    """Whether a file is stored beside the repository, as `.gitattributes` of a new repository has it."""
    return path.endswith(LARGE_ENDINGS)


def pointer(content: bytes) -> bytes:
    """What git holds for a large file."""
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()


def blob_id(content: bytes) -> str:
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit."""

    path: str
    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        return blob_id(pointer(self.content) if self.large else self.content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    @property
    def lfs(self) -> dict[str, Any] | None:
        if not self.large:
            return None
        return {"oid": self.sha256, "size": len(self.content), "pointerSize": len(pointer(self.content))}

    def entry(self) -> dict[str, Any]:
        """As a file listing shows it."""
        found = {"type": "file", "oid": self.oid, "size": len(self.content), "path": self.path}
        return found | ({"lfs": self.lfs} if self.large else {})

    def sibling(self) -> dict[str, Any]:
        lfs = {"sha256": self.sha256, **self.lfs} if self.lfs else None
        return {"rfilename": self.path, "size": len(self.content), "blobId": self.oid, "lfs": lfs}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, StoredFile]


@dataclass
class Repository:
    """One model repository."""

    name: str
    owner: str
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    _incarnations = itertools.count()

    def __post_init__(self) -> None:
        self._salt = next(self._incarnations)
        self.commit(
            {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "initial commit"
        )

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def commit(
        self, changed: dict[str, bytes], title: str, deleted: tuple[str, ...] = (), branch: str = "main"
    ) -> Commit:
        """A new commit on a branch."""
        parent = self.commits.get(self.branches.get(branch, ""))
        files = dict(parent.files) if parent else {}
        for path in deleted:
            files = {
                name: file for name, file in files.items() if name != path and not name.startswith(f"{path}/")
            }
        files |= {path: StoredFile(path, content, is_large(path)) for path, content in changed.items()}
        named = "".join(f"{path}\0{file.oid}\n" for path, file in sorted(files.items()))
        text = f"{self.name}\0{self._salt}\0{parent and parent.oid}\0{title}\0{named}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), parent.oid if parent else None, title, files)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or a hash."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def card(self) -> dict[str, Any]:
        """The front matter of the model card at the head."""
        file = self.head.files.get("README.md")
        text = file.content.decode() if file else ""
        if not text.startswith("---\n") or "\n---" not in text[4:]:
            return {}
        found = yaml.safe_load(text[4:].split("\n---", 1)[0])
        return found if isinstance(found, dict) else {}

    def found_tags(self) -> list[str]:
        """What a search filters by."""
        card = self.card()
        words = [str(word) for word in card.get("tags") or ()]
        if "library_name" in card:
            words.append(str(card["library_name"]))
        if "license" in card:
            words.append(f"license:{card['license']}")
        return words

    def info(self, commit: Commit) -> dict[str, Any]:
        """As the Hub describes it."""
        return {
            "_id": f"{self._salt:024x}",
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": commit.oid,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 7,
            "likes": 1,
            "tags": self.found_tags(),
            "library_name": self.card().get("library_name"),
            "cardData": self.card(),
            "siblings": [file.sibling() for _, file in sorted(commit.files.items())],
        }


def tree(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """A file listing."""
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    found: dict[str, dict[str, Any]] = {}
    for path, file in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            above = prefix + "/".join(parts[:depth])
            if recursive or depth == 1:
                oid = hashlib.sha1(above.encode()).hexdigest()
                found.setdefault(above, {"type": "directory", "oid": oid, "size": 0, "path": above})
        if recursive or len(parts) == 1:
            found[path] = file.entry()
    return list(found.values())
