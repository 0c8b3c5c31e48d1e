"""How a plugin would fit into this environment: whether it claims what is another's, and what it lacks here."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.machinery import PathFinder

from packaging.specifiers import SpecifierSet

from ldm_registry.errors import LdmError
from ldm_registry.registry import Entry
from ldm_registry.travel.plugin_contents import Contents, normal
from ldm_registry.travel.sealed_code import read_seal, sealed_folder_of

START_UP = frozenset({"sitecustomize", "usercustomize", "conftest", "setup", "tests", "test", "__main__"})


def claims(contents: Contents, installed: Sequence[Entry]) -> list[str]:
    """What a plugin claims although it belongs to somebody else.

    Args:
        contents: Of the plugin.
        installed: What all installed distributions declare.
    """
    own = contents.distribution
    problems = [
        f"it declares {one.kind}.{one.name}, which is {entry.distribution}'s"
        for one in contents.manifest.components
        for entry in installed
        if entry.key == (one.kind.value, one.name) and normal(entry.distribution) != own
    ]
    for package in contents.packages:
        if package in sys.stdlib_module_names or package in START_UP:
            problems.append(f"its package {package!a} has a name that Python itself uses")
        elif (owner := _owner(package)) not in (None, own):
            problems.append(f"its package {package!a} would stand in for one that is there: {owner}")
    return problems


def missing(contents: Contents) -> list[str]:
    """What it needs and this environment lacks, each as pip writes it, with what is there instead."""
    problems = []
    if contents.requires_python and not SpecifierSet(contents.requires_python).contains(
        platform.python_version(), prereleases=True
    ):
        problems.append(f"Python {contents.requires_python} (this is {platform.python_version()})")
    for needed in contents.requirements:
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{needed}")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            problems.append(f"{needed} (there is {version})")
    return problems


def unsupplied(contents: Contents, imports: Iterable[str]) -> list[str]:
    """Top-level modules that the code imports and nothing here supplies, declared or not. Imports none of them."""
    known = {*contents.packages, *sys.stdlib_module_names}
    return sorted(name for name in set(imports) - known if PathFinder.find_spec(name) is None)


def _owner(package: str) -> str | None:
    """Who supplies a top-level name already: a distribution, or a path; None where nobody does."""
    spec = PathFinder.find_spec(package)
    if spec is None:
        return None
    folder = sealed_folder_of(package)
    if folder is not None:
        try:
            return normal(read_seal(folder).distribution)
        except LdmError:
            return folder.parent.name
    return spec.origin or str(next(iter(spec.submodule_search_locations or ()), package))
