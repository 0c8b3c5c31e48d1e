"""`ldm list`: what is installed. Imports neither torch nor typer, nor, unless asked to, any plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_registry.cli.outcome import Result
from ldm_registry.errors import IntegrityError, PluginError, SpecError, did_you_mean
from ldm_registry.registry import Entry, Registry
from ldm_registry.report.tables import table
from ldm_registry.vocabulary import Kind


@dataclass(frozen=True, slots=True)
class QuickArguments:
    """A parsed `ldm list [KIND] [--json]`."""

    kind: str | None
    as_json: bool


def quick_arguments(words: Sequence[str]) -> QuickArguments | None:
    """Parse the plain forms of `ldm list`; None for all others (`--help`, `--check`, mistakes)."""
    kinds = [word for word in words if word in set(Kind)]
    rest = [word for word in words if word not in set(Kind)]
    if len(kinds) > 1 or rest not in ([], ["--json"]):
        return None
    return QuickArguments(kinds[0] if kinds else None, bool(rest))


def list_components(
    kind: str | None = None, *, check: bool = False, registry: Registry | None = None
) -> Result:
    """Every declared component, with what is known to be wrong with it.

    Args:
        kind: Only these.
        check: Import each plugin to see whether it works; a broken one is a row like any other.
        registry: What to list; None discovers what is installed.

    Returns:
        Exit code 0; with `check`, that of a broken plugin when there is one.

    Raises:
        SpecError: There is no such kind.
    """
    if kind is not None and kind not in set(Kind):
        raise SpecError(f"there is no kind {kind!r}", hint=did_you_mean(kind, list(Kind)))
    registry = Registry.discover() if registry is None else registry
    if check:
        _import_all(registry, kind)
    entries = sorted(registry.entries(kind), key=_in_order_of_the_data_flow)
    broken = any(entry.error for entry in entries)
    return Result(
        {"components": [_row(entry) for entry in entries]},
        _render(entries) if entries else "nothing is installed; a plugin is installed with pip",
        PluginError.exit_code if check and broken else 0,
    )


def _import_all(registry: Registry, kind: str | None) -> None:
    for entry in registry.entries(kind):
        try:
            registry.get(entry.kind, entry.name)
        except (PluginError, IntegrityError):
            continue


def _in_order_of_the_data_flow(entry: Entry) -> tuple[int, str, str]:
    kinds: list[str] = list(Kind)
    return kinds.index(entry.kind) if entry.kind in kinds else len(kinds), entry.name, entry.distribution


def _row(entry: Entry) -> dict[str, str | None]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "status": "broken" if entry.error else "declared",
        "error": entry.error,
    }


def _render(entries: Sequence[Entry]) -> str:
    rows = [
        (
            entry.kind,
            entry.name,
            f"{entry.distribution} {entry.version}",
            f"broken: {entry.error}" if entry.error else "",
        )
        for entry in entries
    ]
    return table(("kind", "name", "plugin", ""), rows)
