"""A spec as YAML: the shortest text that reads back as an equal spec. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_registry.spec_models import PipelineSpec
from ldm_registry.spec_paths import PATH_KEYS, relative
from ldm_registry.yaml_scalars import resolve_scalar

WIDTH = 110
_PLAIN = re.compile(r"hf://[A-Za-z0-9._/@-]+|[A-Za-z_./][A-Za-z0-9_./@+-]*")


def dump_spec(spec: PipelineSpec, relative_to: Path | None = None) -> str:
    """Write a spec as YAML.

    Keys come in the order of the model, values that equal their default are left out, and a mapping stands on
    one line where it fits.

    Args:
        spec: What to write.
        relative_to: Folder that the text will lie in: paths are written relative to it, unless they share
            nothing with it but the root. None writes them as they are.

    Returns:
        Text for which `load_spec` gives an equal spec, when it is read from that folder.
    """
    values = plain(spec, relative_to)
    return "".join(f"{line}\n" for key, value in values.items() for line in _lines(key, value, indent=0))


def plain(spec: PipelineSpec, relative_to: Path | None = None, *, defaults: bool = False) -> dict[str, Any]:
    """A spec as scalars, lists and dictionaries, as they would stand in its file.

    Args:
        spec: What to write.
        relative_to: As in `dump_spec`.
        defaults: Whether values that equal their default are written too.
    """
    values = {"version": spec.version, **spec.model_dump(mode="json", exclude_defaults=not defaults)}
    if relative_to is not None:
        for keys in PATH_KEYS:
            _make_relative(values, keys, relative_to)
    return values


def _make_relative(values: Any, keys: tuple[str, ...], folder: Path) -> None:
    first, *rest = keys
    for key in [key for key in values if first in (key, "*")] if isinstance(values, dict) else ():
        if rest:
            _make_relative(values[key], tuple(rest), folder)
        elif isinstance(values[key], str):
            values[key] = relative(values[key], folder)


def _lines(key: str, value: Any, indent: int) -> list[str]:
    start = f"{' ' * indent}{_scalar(key)}:"
    line = f"{start} {_flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, Mapping):
        return [line]
    return [start, *(line for name, item in value.items() for line in _lines(name, item, indent + 2))]


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: str | int | float | bool | None) -> str:
    if not isinstance(value, str):
        # JSON's numbers, true, false and null mean the same in YAML 1.2.
        return json.dumps(value)
    return value if _PLAIN.fullmatch(value) and _stays_text(value) else json.dumps(value, ensure_ascii=False)


def _stays_text(value: str) -> bool:
    try:
        return isinstance(resolve_scalar(value), str)
    except ValueError:
        return False
