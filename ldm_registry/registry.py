"""Find what plugins supply, and import a plugin only when one of its components is named.

Entry points in group `ldm_registry`, one for each component, named `kind.name`, say what there is; so a
listing imports nothing. A plugin is imported by a loop of our own, not by pluggy's: one broken plugin must
not take the others down, and a name that is claimed twice must be nobody's.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING

import pluggy

from ldm_registry import hookspecs
from ldm_registry.errors import IntegrityError, LdmError, NotFoundError, PluginError, did_you_mean
from ldm_registry.vocabulary import Kind

if TYPE_CHECKING:
    from ldm_registry.interfaces import Component


@dataclass(frozen=True, slots=True)
class Entry:
    """One component that some distribution declares.

    Attributes:
        kind: Its kind, as declared; not always a valid one.
        name: Its name.
        module: The module that holds the hook implementation.
        distribution: Who declares it.
        version: Of the distribution.
        error: Why it cannot be used, as far as that is known without importing it.
    """

    kind: str
    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """(kind, name)."""
        return self.kind, self.name


class Registry:
    """(kind, name) to component class.

    Args:
        modules: Modules with a hook implementation. `Registry([module])` holds just their components and
            touches no global state; use `Registry.discover()` for what is installed.

    Raises:
        PluginError: A module does not implement the hook, or two claim one name.
    """

    def __init__(self, modules: Sequence[ModuleType] = ()) -> None:
        self._classes: dict[str, dict[tuple[str, str], type[Component]]] = {}
        self._failures: dict[str, LdmError] = {}
        entries: list[Entry] = []
        for module in modules:
            classes = _components(module)
            self._classes[module.__name__] = classes
            entries += [Entry(*key, module.__name__, module.__name__, "") for key in classes]
        self._entries = _refuse_duplicates(entries)
        for entry in self._entries:
            if entry.error:
                raise PluginError(entry.error)

    @classmethod
    def discover(cls) -> Registry:
        """Everything that the installed distributions declare. Imports no plugin, and never fails."""
        registry = cls()
        registry._entries = _refuse_duplicates(_declared())
        return registry

    def entries(self, kind: Kind | str | None = None) -> list[Entry]:
        """What is declared, sorted by kind and name; with the errors that are known so far."""
        rows = (entry for entry in self._entries if kind is None or entry.kind == kind)
        return [self._with_failure(entry) for entry in rows]

    def names(self, kind: Kind | str) -> list[str]:
        """The names of one kind that nothing is known to be wrong with."""
        return [entry.name for entry in self.entries(kind) if entry.error is None]

    def get(self, kind: Kind | str, name: str) -> type[Component]:
        """The class of a component; imports its plugin.

        Args:
            kind: Which kind.
            name: Its registered name.

        Raises:
            NotFoundError: Nobody declares it.
            PluginError: Two distributions declare it, its plugin cannot be imported, or the plugin does not
                return what it declares.
            IntegrityError: Its plugin came from the Hub, and is not what was installed. It is not imported.
        """
        found = [entry for entry in self._entries if entry.key == (str(kind), name)]
        if not found:
            raise self._unknown(str(kind), name)
        entry = found[0]
        if entry.error:
            raise PluginError(f"{kind} {name!r} cannot be used", [entry.error])
        return self._load(entry.module)[entry.key]

    def _unknown(self, kind: str, name: str) -> NotFoundError:
        elsewhere = sorted({entry.kind for entry in self._entries if entry.name == name})
        also = f"; {name!r} exists as {' and '.join(elsewhere)}" if elsewhere else ""
        return NotFoundError(
            f"no {kind} is called {name!r}{also}",
            hint=f"{did_you_mean(name, self.names(kind))} (`ldm list {kind}` shows all)",
        )

    def _with_failure(self, entry: Entry) -> Entry:
        failure = self._failures.get(entry.module)
        if entry.error or failure is None:
            return entry
        return replace(entry, error="; ".join([failure.summary, *failure.problems]))

    def _load(self, module_name: str) -> dict[tuple[str, str], type[Component]]:
        if module_name in self._failures:
            raise self._failures[module_name]
        if module_name not in self._classes:
            from ldm_registry.travel.sealed_code import require_sealed

            try:
                require_sealed(module_name)
                self._classes[module_name] = self._import(module_name)
            except (PluginError, IntegrityError) as error:
                self._failures[module_name] = error
                raise
        return self._classes[module_name]

    def _import(self, module_name: str) -> dict[tuple[str, str], type[Component]]:
        owners = {entry.distribution for entry in self._entries if entry.module == module_name}
        origin = f"plugin {' and '.join(sorted(owners))} (module {module_name})"
        try:
            classes = _components(importlib.import_module(module_name))
        except LdmError as error:
            raise PluginError(f"{origin} is broken", [error.summary, *error.problems], error.hint) from error
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{origin} cannot be imported",
                [f"{type(error).__name__}: {error}"],
                hint=f"reinstall or remove it: `{_removal(module_name)} {' '.join(sorted(owners))}`",
            ) from error
        declared = {entry.key for entry in self._entries if entry.module == module_name}
        if declared != set(classes):
            raise PluginError(
                f"{origin} does not return what its entry points declare",
                [
                    *(f"declared but not returned: {kind}.{name}" for kind, name in declared - set(classes)),
                    *(f"returned but not declared: {kind}.{name}" for kind, name in set(classes) - declared),
                ],
                hint="make [project.entry-points.ldm_registry] and register_components() agree, reinstall",
            )
        return classes


def _removal(module_name: str) -> str:
    from ldm_registry.travel.sealed_code import sealed_folder_of

    return "ldm plugin remove" if sealed_folder_of(module_name) else "pip uninstall"


def _declared() -> list[Entry]:
    """What the distributions on `sys.path` declare; read again when one was added or removed."""
    return list(_declared_in(tuple((place, _changed_ns(place)) for place in sys.path)))


def _changed_ns(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _declared_in(places: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    entries = {}
    described: dict[metadata.Distribution | None, tuple[str, str]] = {None: ("unknown", "")}
    for point in metadata.entry_points(group=hookspecs.PROJECT):
        kind, _, name = point.name.partition(".")
        if point.dist is not None and point.dist not in described:
            # Metadata is parsed anew each time that it is asked for.
            told = point.dist.metadata
            described[point.dist] = told["Name"], told["Version"]
        distribution, version = described[point.dist]
        error = (
            None if kind in set(Kind) and name else f"entry point {point.name!r} is not of the form kind.name"
        )
        entry = Entry(kind, name, point.value, distribution, version, error)
        entries[entry.key, entry.module, distribution] = entry
    return tuple(entries.values())


def _refuse_duplicates(entries: Iterable[Entry]) -> list[Entry]:
    claims: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        claims[entry.key].append(entry)
    rows = []
    for (kind, name), rivals in claims.items():
        if len(rivals) > 1:
            owners = sorted(f"{rival.distribution} ({rival.module})" for rival in rivals)
            error = f"{kind} {name!r} is claimed by {' and '.join(owners)}; uninstall all but one"
            rivals = [replace(rival, error=error) for rival in rivals]
        rows += rivals
    return sorted(rows, key=lambda entry: (entry.kind, entry.name, entry.distribution))


@lru_cache(maxsize=256)
def _components(module: ModuleType) -> dict[tuple[str, str], type[Component]]:
    """Ask one module for its components.

    Raises:
        PluginError: It implements no such hook, or returns something that is not a component.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=module.__name__)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"{module.__name__} implements a hook that does not exist",
            [str(error)],
            hint="the only hook is register_components()",
        ) from error
    returned = [item for items in manager.hook.register_components() for item in items]
    problems = [problem for item in returned if (problem := _not_a_component(item))]
    keys = [(str(item.kind), item.name) for item in returned if not _not_a_component(item)]
    problems += [
        f"{kind}.{name} is returned twice" for kind, name in set(keys) if keys.count((kind, name)) > 1
    ]
    if problems:
        raise PluginError(f"{module.__name__} returns what is not a component", problems)
    return dict(zip(keys, returned, strict=True))


def _not_a_component(item: object) -> str | None:
    from ldm_registry.interfaces import Component, ComponentConfig

    if not (inspect.isclass(item) and issubclass(item, Component)):
        return f"{item!r} is not a Component class"
    if inspect.isabstract(item):
        return f"{item.__name__} is abstract: it lacks {', '.join(sorted(item.__abstractmethods__))}"
    lacking = [name for name in ("kind", "name", "Config") if not hasattr(item, name)]
    if lacking:
        return f"{item.__name__} has no class attribute {', '.join(lacking)}"
    if not (inspect.isclass(item.Config) and issubclass(item.Config, ComponentConfig)):
        return f"{item.__name__}.Config is not a ComponentConfig"
    return None
