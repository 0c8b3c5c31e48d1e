"""Which files of a project become an installed plugin, and what a project may not ask for.

Nothing of the project is run, its build least of all: what is installed is the packages that its entry points name,
file by file, as they lie in the repository. So a project whose build would do more than that is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ldm_registry.authoring.manifest import FILE, MAX_BYTES, Manifest, parse_manifest
from ldm_registry.errors import IntegrityError, NotFoundError, SpecError
from ldm_registry.hookspecs import PROJECT
from ldm_registry.hub import clean

MAX_FILES = 500
MAX_FILE_BYTES = 2**20
MAX_TOTAL_BYTES = 16 * 2**20
ENDINGS = (".py", ".pyi", ".typed", ".json", ".txt", ".md", ".yaml", ".yml", ".toml", ".csv")
"""Of the files in a package."""

NATIVE_OR_BYTE_CODE = (
    *(".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".exe", ".a", ".o", ".pth", ".egg", ".whl", ".zip"),
    *(".pkl", ".pickle", ".pt", ".pth.tar", ".ckpt", ".bin"),
)
"""Refused wherever they lie in the repository."""

BUILD_CODE = frozenset({"setup.py", "setup.cfg", "hatch_build.py", "sitecustomize.py", "usercustomize.py"})
LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)[\w.-]{0,32}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Contents:
    """What is installed of a project.

    Attributes:
        manifest: What its `pyproject.toml` says.
        requires_python: As it is written there; empty where nothing is.
        requirements: What it depends on.
        sources: By path in the repository: the path in the installed folder.
    """

    manifest: Manifest
    requires_python: str
    requirements: tuple[Requirement, ...]
    sources: Mapping[str, str]

    @property
    def packages(self) -> tuple[str, ...]:
        """Top-level names of its own code."""
        return tuple(dict.fromkeys(module.partition(".")[0] for module in self.manifest.modules))

    @property
    def metadata_folder(self) -> str:
        """Where the installed folder says whose it is."""
        return f"{self.distribution.replace('-', '_')}-{self.manifest.version.replace('-', '_')}.dist-info"

    @property
    def distribution(self) -> str:
        """The name of the distribution, in its normal form."""
        return normal(self.manifest.distribution)


def normal(distribution: str) -> str:
    """The one spelling of a distribution's name that all of its spellings share."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def contents_of(pyproject: bytes, sizes: Mapping[str, int], where: str) -> Contents:
    """Decide what is installed, from the manifest and the listing alone.

    Args:
        pyproject: Content of `pyproject.toml`.
        sizes: Bytes of every file of the repository, by path; the paths were checked for where they lead.
        where: Named in errors.

    Raises:
        SpecError: The manifest is not one of a plugin.
        IntegrityError: It asks for what a plugin may not have; every problem.
    """
    manifest = parse_manifest(pyproject, f"{where}: {FILE}")
    document = tomllib.loads(pyproject.decode("utf-8"))
    problems = [*_build_code(document), *_other_points(document["project"]), *refused_files(sizes)]
    source, lacking = _source(manifest, sizes)
    contents = Contents(
        manifest,
        *_requirements(document["project"], manifest, f"{where}: {FILE}"),
        sources=_sources(manifest, sizes, source),
    )
    problems += [*lacking, *_unfit(contents, sizes)]
    if problems:
        raise IntegrityError(f"{where} is refused: nothing of it was run or installed", problems)
    return contents


def refused_files(paths: Iterable[str]) -> list[str]:
    """Files that no plugin's repository may hold, wherever they lie: byte code, native code, pickles, build code."""
    problems = []
    for path in sorted(paths):
        pure = PurePosixPath(path.casefold())
        if "__pycache__" in pure.parts:
            problems.append(f"{path!a}: byte code, which would run in place of the source that was read")
        elif pure.name.endswith(NATIVE_OR_BYTE_CODE):
            problems.append(f"{path!a}: a file of this kind runs, or may run, code that cannot be read")
        elif pure.name in BUILD_CODE and len(pure.parts) == 1:
            problems.append(f"{path!a}: code of the build; a plugin is built from {FILE} alone")
    return problems


def is_about(path: str) -> bool:
    """Whether a file says something about the project and is no part of its code: the manifest, and the licence."""
    return path == FILE or (LICENCE.fullmatch(path) is not None and not path.endswith(".py"))


def _build_code(document: Mapping[str, Any]) -> Iterator[str]:
    build = _table(document, "build-system")
    if "backend-path" in build:
        yield f"{FILE}: build-system.backend-path: its build would run its own code"
    hatch = _table(document, "tool", "hatch")
    for path in (("build", "hooks"), ("metadata", "hooks"), ("build", "targets", "wheel", "hooks")):
        if _table(hatch, *path):
            yield f"{FILE}: tool.hatch.{'.'.join(path)}: its build would run code"
    wheel = _table(hatch, "build", "targets", "wheel")
    for key in ("force-include", "sources", "shared-data", "shared-scripts", "extra-metadata"):
        if key in wheel or key in _table(hatch, "build"):
            yield f"{FILE}: tool.hatch...{key}: what is installed is the package as it lies, nothing else"
    if _table(document, "tool", "setuptools", "cmdclass"):
        yield f"{FILE}: tool.setuptools.cmdclass: its build would run code"
    if document["project"].get("dynamic"):
        yield f"{FILE}: project.dynamic: what it says has to stand there, not to be computed"


def _other_points(project: Mapping[str, Any]) -> Iterator[str]:
    for key in ("scripts", "gui-scripts"):
        if project.get(key):
            yield f"{FILE}: project.{key}: a plugin adds components, no commands"
    for group in sorted(set(_table(project, "entry-points")) - {PROJECT}):
        yield f"{FILE}: project.entry-points.{clean(group)}: other programs would run it without being asked to"


def _table(document: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        found = document.get(key)
        document = found if isinstance(found, dict) else {}
    return document


def _source(manifest: Manifest, sizes: Mapping[str, int]) -> tuple[str, list[str]]:
    """Where the packages lie (`` or `src/`), and which modules lie nowhere."""
    lacking: dict[str, list[str]] = {}
    for place in ("", "src/"):
        lacking[place] = [
            f"{FILE}: the entry points name {clean(module)}, which is no module of this project's own packages"
            for module in manifest.modules
            if not _is_module(place, module, sizes)
        ]
    best = min(lacking, key=lambda place: len(lacking[place]))
    return best, lacking[best]


def _is_module(place: str, module: str, sizes: Mapping[str, int]) -> bool:
    path = place + module.replace(".", "/")
    package = f"{place}{module.partition('.')[0]}/__init__.py"
    if "." not in module and f"{path}.py" in sizes:
        return True
    return package in sizes and (f"{path}.py" in sizes or f"{path}/__init__.py" in sizes)


def _sources(manifest: Manifest, sizes: Mapping[str, int], source: str) -> dict[str, str]:
    tops = {f"{source}{module.partition('.')[0]}" for module in manifest.modules}
    chosen = {
        path: path.removeprefix(source)
        for path in sizes
        if path.startswith(tuple(f"{top}/" for top in tops)) or path.removesuffix(".py") in tops
    }
    about = {path: path for path in sizes if is_about(path)}
    return dict(sorted({**chosen, **about}.items()))


def _unfit(contents: Contents, sizes: Mapping[str, int]) -> Iterator[str]:
    chosen = {path: sizes[path] for path in contents.sources}
    for path, size in chosen.items():
        if not is_about(path) and not path.endswith(ENDINGS):
            yield f"{path!a}: a package of a plugin holds {' '.join(ENDINGS)}"
        most = MAX_BYTES if path == FILE else MAX_FILE_BYTES
        if size > most:
            yield f"{path!a}: {size:,} bytes, at most {most:,}"
    if len(chosen) > MAX_FILES:
        yield f"{len(chosen):,} files would be installed, at most {MAX_FILES:,}"
    if (total := sum(chosen.values())) > MAX_TOTAL_BYTES:
        yield f"{total:,} bytes would be installed, at most {MAX_TOTAL_BYTES:,}"


def _requirements(
    project: Mapping[str, Any], manifest: Manifest, where: str
) -> tuple[str, tuple[Requirement, ...]]:
    problems, requirements = [], []
    python = project.get("requires-python", "")
    try:
        SpecifierSet(python)
    except (InvalidSpecifier, AttributeError, TypeError):
        problems.append(f"project.requires-python: got {python!a}")
    for text in manifest.dependencies:
        try:
            requirements.append(Requirement(text))
        except InvalidRequirement as error:
            problems.append(f"project.dependencies: {text!a}: {clean(error)}")
    problems += [
        f"project.dependencies: {one.name} is to come from {clean(one.url)}; name a released version"
        for one in requirements
        if one.url
    ]
    if problems:
        raise SpecError(f"{where} does not say what the plugin needs as pip reads it", problems)
    return python, tuple(requirements)


def require_manifest(sizes: Mapping[str, int], where: str) -> None:
    """Refuse a repository that holds no plugin.

    Raises:
        NotFoundError: It has no `pyproject.toml`.
        IntegrityError: That is too long.
    """
    if FILE not in sizes:
        raise NotFoundError(
            f"{where} has no {FILE}: it is no plugin", hint="a checkpoint is fetched with `ldm pull`"
        )
    if sizes[FILE] > MAX_BYTES:
        raise IntegrityError(f"{where}: {FILE} has {sizes[FILE]:,} bytes; at most {MAX_BYTES:,}")
