"""A plugin project used from its folder, as if it were installed, and without a trace once it is done with.

This runs the project's code. It is for a folder that somebody named by its path on purpose, and for nothing else.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ldm_registry.authoring.manifest import Declared, Manifest, read_manifest
from ldm_registry.errors import NotFoundError, PluginError
from ldm_registry.hookspecs import PROJECT
from ldm_registry.interfaces import Component
from ldm_registry.registry import Registry


@dataclass(frozen=True, slots=True)
class LoadedProject:
    """A project whose modules are imported.

    Attributes:
        folder: Where it lies.
        manifest: What its `pyproject.toml` says.
        components: By what declares them, in the order of the manifest.
    """

    folder: Path
    manifest: Manifest
    components: tuple[tuple[Declared, type[Component]], ...]


@contextmanager
def loaded_project(folder: Path) -> Iterator[LoadedProject]:
    """Import a project from its folder, for as long as the context lasts.

    Inside, `Registry.discover()` finds it like an installed distribution, in this process and in those that it starts
    with its `sys.path`. Afterwards `sys.path` and `sys.modules` are as they were; nothing is written into the folder.

    Args:
        folder: Of the project, with its `pyproject.toml`.

    Raises:
        NotFoundError: There is no project there, or no module that it declares.
        SpecError: Its manifest is not valid.
        PluginError: It cannot be imported, returns other components than it declares, or its name is taken.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    source = _source(folder, manifest)
    with TemporaryDirectory() as metadata, _isolated(manifest):
        _write_metadata(Path(metadata), manifest)
        sys.path[:0] = [metadata, str(source)]
        importlib.invalidate_caches()
        registry = Registry.discover()
        try:
            components = tuple((one, registry.get(one.kind, one.name)) for one in manifest.components)
        except PluginError as error:
            # The registry says how to remove an installed plugin; this one is a folder.
            hint = f"its code is in {folder}{_raised_at(error, source)}"
            raise PluginError(error.summary, error.problems, hint) from error
        for module in manifest.modules:
            _require_inside(module, source)
        yield LoadedProject(folder, manifest, components)


def _source(folder: Path, manifest: Manifest) -> Path:
    """Where the project's packages lie: the folder itself, or `src` in it."""
    for place in (folder, folder / "src"):
        tops = (place / module.partition(".")[0] for module in manifest.modules)
        if all((top / "__init__.py").is_file() or top.with_suffix(".py").is_file() for top in tops):
            return place
    raise NotFoundError(
        f"{folder} does not hold the modules that it declares",
        [f"{module}: neither there nor in {folder.name}/src" for module in manifest.modules],
        hint="make [project.entry-points.ldm_registry] name the module that holds register_components()",
    )


@contextmanager
def _isolated(manifest: Manifest) -> Iterator[None]:
    """Whatever is imported inside is forgotten afterwards, and what it hid is there again."""
    tops = {module.partition(".")[0] for module in manifest.modules}
    path, written = list(sys.path), sys.dont_write_bytecode
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:] = path
        sys.dont_write_bytecode = written
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(hidden)
        importlib.invalidate_caches()


def _write_metadata(place: Path, manifest: Manifest) -> None:
    """The metadata that pip would have written, so that the project is found like any other distribution."""
    name = manifest.distribution.replace("-", "_").replace(".", "_")
    folder = place / f"{name}-{manifest.version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {manifest.distribution}\nVersion: {manifest.version}\n", "utf-8"
    )
    points = [f"{one.kind}.{one.name} = {one.module}" for one in manifest.components]
    (folder / "entry_points.txt").write_text("\n".join([f"[{PROJECT}]", *points, ""]), "utf-8")


def _raised_at(error: PluginError, source: Path) -> str:
    """The last line of the project that was reached, as `; it stopped at FILE:LINE`, if any was."""
    frames = traceback.extract_tb(error.__cause__.__traceback__ if error.__cause__ else None)
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(source)]
    if not inside:
        return ""
    return f"; it stopped at {Path(inside[-1].filename).relative_to(source)}:{inside[-1].lineno}"


def _require_inside(module: str, source: Path) -> None:
    """Refuse a module of the same name from elsewhere: another project's code would be tested."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(os.path.realpath(file)).is_relative_to(source):
        raise PluginError(f"module {module} was imported from {file}", [f"expected it inside {source}"])
