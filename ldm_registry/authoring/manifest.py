"""The manifest of a plugin: what its `pyproject.toml` says, read as data. Nothing is imported and nothing run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_registry.errors import NotFoundError, SpecError, did_you_mean
from ldm_registry.hookspecs import PROJECT
from ldm_registry.vocabulary import Kind

FILE = "pyproject.toml"
MAX_BYTES = 256 * 1024
WELL_FORMED = {
    "name": re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"),
    "version": re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}"),
}
POINT = re.compile(r"(?P<kind>\w+)\.(?P<name>[a-z0-9]+([-_][a-z0-9]+)*)")


@dataclass(frozen=True, slots=True)
class Declared:
    """One component that a manifest declares.

    Attributes:
        kind: Its kind.
        name: Its name.
        module: The module that holds the hook implementation.
    """

    kind: Kind
    name: str
    module: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a plugin's `pyproject.toml` says.

    Attributes:
        distribution: Its name for pip.
        version: Of the distribution.
        description: In one line.
        dependencies: As pip reads them.
        components: One for each entry point in the group `ldm_registry`, in the order of the file.
    """

    distribution: str
    version: str
    description: str
    dependencies: tuple[str, ...]
    components: tuple[Declared, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that hold a hook implementation, each once."""
        return tuple(dict.fromkeys(one.module for one in self.components))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a project folder.

    Args:
        folder: Where its `pyproject.toml` lies.

    Raises:
        NotFoundError: There is no such folder, or it has no manifest.
        SpecError: As `parse_manifest`.
    """
    path = folder / FILE
    if not path.is_file():
        what = f"{folder} has no {FILE}" if folder.is_dir() else f"there is no folder {folder}"
        raise NotFoundError(what, hint="`ldm plugin new NAME --kind KIND` writes a project")
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"{path} has {path.stat().st_size:,} bytes; expected at most {MAX_BYTES:,}")
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest that a `pyproject.toml` holds.

    Args:
        content: Of the file.
        where: Named in errors.

    Raises:
        SpecError: It is no TOML, or lacks what a plugin's manifest has to say; every problem.
    """
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"{where} is not valid TOML", [str(error)]) from error
    project = document.get("project")
    if not isinstance(project, dict):
        raise SpecError(f"{where} has no table [project]")
    problems = [
        f"project.{key}: got {project.get(key)!r}; expected a {key} as pip writes it"
        for key, form in WELL_FORMED.items()
        if not (isinstance(project.get(key), str) and form.fullmatch(project[key]))
    ]
    dependencies = project.get("dependencies", [])
    if not (isinstance(dependencies, list) and all(isinstance(one, str) for one in dependencies)):
        problems.append(f"project.dependencies: got {dependencies!r}; expected a list of texts")
    components, wrong = _components(project)
    if problems or wrong:
        raise SpecError(f"{where} is not the manifest of a plugin", [*problems, *wrong])
    return Manifest(
        project["name"],
        project["version"],
        str(project.get("description", "")),
        tuple(dependencies),
        tuple(components),
    )


def _components(project: Mapping[str, Any]) -> tuple[list[Declared], list[str]]:
    groups = project.get("entry-points", {})
    points = groups.get(PROJECT) if isinstance(groups, dict) else None
    where = f"project.entry-points.{PROJECT}"
    if not isinstance(points, dict) or not points:
        return [], [f'{where}: declares no component; add lines such as `"encoder.my-vae" = "ldm_my_vae"`']
    components, problems = [], []
    for point, module in points.items():
        said = POINT.fullmatch(point)
        if said is None or said["kind"] not in set(Kind):
            hint = did_you_mean(point.partition(".")[0], [kind.value for kind in Kind])
            problems.append(f"{where}: {point!r} is not of the form kind.name; {hint}")
        elif not isinstance(module, str) or not all(part.isidentifier() for part in module.split(".")):
            problems.append(f"{where}: {point!r} names {module!r}; expected a module")
        else:
            components.append(Declared(Kind(said["kind"]), said["name"], module))
    return components, problems
