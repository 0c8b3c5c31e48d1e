"""Where a spec's files are: relative and absolute paths, Hub addresses, bundled specs. Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ldm_registry.errors import NotFoundError, SpecError, did_you_mean
from ldm_registry.yaml_scalars import has_control_characters

HUB_SCHEME = "hf://"
PATH_KEYS: tuple[tuple[str, ...], ...] = (
    *((stage, key) for stage in ("encoder", "denoiser", "decoder") for key in ("checkpoint", "contract")),
    *(("conditioners", "*", key) for key in ("checkpoint", "contract", "tokenizer")),
    ("data", "images"),
    ("data", "train"),
    ("train", "images"),
    ("train", "codec", "initialise_from"),
    ("train", "denoiser", "initialise_from"),
)
"""Every place of a spec that holds a path; `*` stands for any key."""


def holds_path(keys: tuple[str, ...]) -> bool:
    """Whether the value under a key path of a spec is a path."""
    return any(
        len(keys) == len(pattern) and all(word in (key, "*") for word, key in zip(pattern, keys, strict=True))
        for pattern in PATH_KEYS
    )


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
PINNED = re.compile(
    rf"hf://(?P<repository>{_NAME}/{_NAME})@(?P<commit>[0-9a-f]{{40}})(?:/(?P<folder>{_NAME}(?:/{_NAME}){{0,3}}))?"
)
"""The address of a checkpoint on the Hub: one commit of one repository, or a folder of it."""
UNPINNED = re.compile(
    rf"(?:hf:/*)?(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[\w./-]{{1,128}}))?", re.ASCII
)
"""A repository, and maybe a branch, a tag or a commit of it."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|hf:")


def has_scheme(text: str) -> bool:
    """Whether a text is an address (`hf://...`, `http://...`) instead of a path."""
    return _SCHEME.match(text) is not None


def checked_local(text: str) -> str:
    """A path on this machine, unchanged.

    Raises:
        ValueError: It is empty, an address, or holds control characters.
    """
    if not text:
        raise ValueError("is empty; expected a path")
    if has_control_characters(text):
        raise ValueError(f"{text!r} holds control characters")
    if has_scheme(text):
        raise ValueError(f"got {text!r}; expected a path on this machine")
    return text


def checked_checkpoint(text: str | None) -> str | None:
    """A checkpoint's folder, or the pinned address of one on the Hub, or None, unchanged.

    Raises:
        ValueError: It is an address of another scheme, or does not name one commit.
    """
    if text is None:
        return None
    if not text.startswith("hf:"):
        if has_scheme(text):
            raise ValueError(f"got {text!r}; expected a folder or hf://org/name@<40-hex commit>")
        return checked_local(text)
    if not PINNED.fullmatch(text):
        named = UNPINNED.fullmatch(text)
        shown = text.removeprefix("hf:").lstrip("/") if named else "ORG/NAME"
        raise ValueError(
            f"got {text!r}; expected hf://org/name@<40-hex commit>: a branch or a tag can move; "
            f"write the commit that it stands for now, which `ldm pull {shown}` prints"
        )
    return text


def absolute(text: str, folder: Path) -> str:
    """A path as seen from a folder, absolute and without `..`; an address is left as it is.

    Symbolic links are kept: what a user named is what later messages name.
    """
    return text if not text or has_scheme(text) else os.path.abspath(folder / text)


def relative(text: str, folder: Path) -> str:
    """A path as it is written into a file of a folder; absolute where the two share no more than the root."""
    if has_scheme(text) or not os.path.isabs(text):
        return text
    base = os.path.abspath(folder)
    if os.path.commonpath([base, text]) == os.path.abspath(os.sep):
        return text
    return os.path.relpath(text, base)


def shown(path: Path) -> str:
    """A path for messages: relative where it lies under the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def bundled_dir() -> Path:
    """The folder of the specs that come with the package: inside a wheel, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "specs"
    return inside if inside.is_dir() else package.parent / "specs"


def bundled_specs() -> list[str]:
    """Names of the bundled specs, sorted."""
    return sorted(path.stem for path in bundled_dir().glob("*.yaml"))


def find_spec(source: str, folder: Path) -> Path:
    """The file that a spec's name or path means.

    Args:
        source: A path, or the name of a bundled spec with or without `.yaml`. A file comes first.
        folder: What a relative path is relative to.

    Raises:
        NotFoundError: It is neither.
        SpecError: It is an address or no path at all.
    """
    try:
        path = Path(absolute(checked_local(source), folder))
    except ValueError as error:
        raise SpecError(f"a spec's name {error}", hint="name a YAML file or a bundled spec") from None
    if path.is_file():
        return path
    names = bundled_specs()
    name = source.removesuffix(".yaml")
    if name in names:
        return bundled_dir() / f"{name}.yaml"
    if path.is_dir():
        raise SpecError(f"{shown(path)} is a folder; expected a YAML file or the name of a bundled spec")
    near = did_you_mean(Path(name).name, names)
    guess = [near] if near.startswith("did you mean") else []
    listing = f"bundled specs: {', '.join(names) or 'none'}"
    raise NotFoundError(f"there is no spec {source!r}: no such file, and none is bundled", guess, listing)
