"""What there is to know about one component, from its class alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ldm_registry.errors import NotFoundError, did_you_mean
from ldm_registry.interfaces import Component
from ldm_registry.registry import Entry, Registry
from ldm_registry.report.tables import table


def find(name: str, registry: Registry | None = None) -> list[dict[str, Any]]:
    """The cards of every component of a name.

    Args:
        name: `name`, or `kind/name` for one kind alone.
        registry: Where to look; None discovers what is installed.

    Raises:
        NotFoundError: There is none.
        PluginError: The plugin that supplies it is broken.
    """
    registry = Registry.discover() if registry is None else registry
    kind, slash, rest = name.rpartition("/")
    entries = [entry for entry in registry.entries(kind or None) if entry.name == rest]
    if not entries:
        words = [f"{entry.kind}/{entry.name}" if slash else entry.name for entry in registry.entries()]
        raise NotFoundError(
            f"there is no component {name!r}",
            hint=f"{did_you_mean(name, sorted(set(words)))} (`ldm list` shows all)",
        )
    return [describe(entry, registry.get(entry.kind, entry.name)) for entry in entries]


def describe(entry: Entry, component: type[Component]) -> dict[str, Any]:
    """A component as a JSON document.

    Args:
        entry: Who supplies it.
        component: Its class.
    """
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "class": f"{component.__module__}.{component.__qualname__}",
        "summary": (inspect.getdoc(component) or "").split("\n\n")[0].replace("\n", " "),
        "diffusers_class": component.diffusers_class,
        "config": [_field(name, info) for name, info in component.Config.model_fields.items()],
    }


def render(card: Mapping[str, Any]) -> str:
    """The same for a terminal."""
    lines = [f"{card['kind']} {card['name']}  ({card['distribution']} {card['version']})", card["summary"]]
    if card["diffusers_class"]:
        lines.append(f"Loads and writes checkpoints of diffusers' {card['diffusers_class']}.")
    fields: Sequence[Mapping[str, Any]] = card["config"]
    if fields:
        rows = [
            (
                field["key"],
                field["type"],
                "(required)" if field["required"] else str(field["default"]),
                field["description"],
            )
            for field in fields
        ]
        lines += ["", table(("config", "type", "default", "meaning"), rows)]
    return "\n".join(lines)


def _field(name: str, info: FieldInfo) -> dict[str, Any]:
    default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    return {
        "key": info.alias or name,
        "type": _type_name(info.annotation),
        "required": info.is_required(),
        "default": list(default) if isinstance(default, tuple) else default,
        "description": info.description or "",
    }


def _type_name(annotation: Any) -> str:
    text = (
        annotation.__name__
        if inspect.isclass(annotation) and not hasattr(annotation, "__args__")
        else str(annotation)
    )
    return text.replace("typing.", "").replace("NoneType", "None")
