"""The spec's grammar for editors and for people: a JSON Schema, and the tables of the reference page.

`python -m ldm_registry.spec_reference docs` writes both anew. Imports no torch.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from pydantic.json_schema import GenerateJsonSchema

from ldm_registry.spec_extends import EXTENDS
from ldm_registry.spec_models import PipelineSpec
from ldm_registry.spec_values import FrozenMapping

SCHEMA_FILE = "spec.schema.json"
PAGE_FILE = "spec.md"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS_SCHEMA = {
    "type": "string",
    "description": "Another spec that this one changes: a YAML file, relative to this one, or the name of a "
    "bundled spec. Mappings merge, lists are replaced, null removes a key",
}
_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_BEGIN, _END = "<!-- fields of {} -->", "<!-- end of fields -->"
_TABLES = re.compile(
    f"^{re.escape(_BEGIN).replace(re.escape('{}'), '([A-Za-z]+)')}$.*?^{re.escape(_END)}$", re.M | re.S
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, for editors.

    It is a little wider than `load_spec`: what a file may leave out depends on what it extends, so that
    required keys are asked for only where nothing is extended.
    """
    bare = _models()
    definitions = bare["$defs"]
    whole = _required(bare, definitions)
    for model in (bare, *definitions.values()):
        model.pop("required", None)
        if "properties" in model:
            model["properties"] = {key: _or_null(value) for key, value in model["properties"].items()}
    return {
        "$schema": _DIALECT,
        "title": "Pipeline spec of ldm_registry",
        "description": bare["description"],
        "type": "object",
        "properties": {EXTENDS: _EXTENDS_SCHEMA, **bare["properties"]},
        "additionalProperties": False,
        "if": {"required": [EXTENDS]},
        "else": whole,
        "$defs": definitions,
    }


def field_table(model: str) -> str:
    """The Markdown table of one model's keys.

    Args:
        model: Name of the class, such as `StageSpec`.
    """
    return _table(model, _models())


def with_tables(page: str) -> str:
    """A Markdown page with every table of fields written anew.

    Args:
        page: Holds pairs of lines `<!-- fields of MODEL -->` and `<!-- end of fields -->`.
    """
    schema = _models()

    def table(match: re.Match[str]) -> str:
        return f"{_BEGIN.format(match[1])}\n{_table(match[1], schema)}\n{_END}"

    return _TABLES.sub(table, page)


def described_models(page: str) -> list[str]:
    """Names of the models whose tables a page holds."""
    return [match[1] for match in _TABLES.finditer(page)]


def schema_text() -> str:
    """The JSON Schema as it is published."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write the schema and the tables of the reference page anew.

    Args:
        folder: That of the documentation; holds `spec.md`.
    """
    page = folder / PAGE_FILE
    page.write_text(with_tables(page.read_text("utf-8")), "utf-8")
    (folder / SCHEMA_FILE).write_text(schema_text(), "utf-8")


@final
class _Generator(GenerateJsonSchema):
    """Pydantic's generator, told how a frozen mapping is written."""

    def encode_default(self, dft: Any) -> Any:
        return dict(dft) if isinstance(dft, FrozenMapping) else super().encode_default(dft)


def _table(model: str, schema: Mapping[str, Any]) -> str:
    described = schema if model == PipelineSpec.__name__ else schema["$defs"][model]
    required = described.get("required", [])
    rows = ["| key | value | default | what it is |", "|---|---|---|---|"]
    for key, value in described["properties"].items():
        default = "required" if key in required else _default(value.get("default"))
        rows.append(
            f"| `{key}` | {_words(value, schema['$defs'])} | {default} | {value['description'].rstrip('.')}. |"
        )
    return "\n".join(rows)


def _models() -> dict[str, Any]:
    """Pydantic's schema of a whole spec, as a file has it."""
    schema: dict[str, Any] = _tidied(PipelineSpec.model_json_schema(schema_generator=_Generator))
    # In Python the version has a default; a file says it.
    schema["required"] = ["version", *schema["required"]]
    del schema["properties"]["version"]["default"]
    return schema


def _tidied(value: Any) -> Any:
    """Leave out titles, which only repeat the keys, and the detours that older releases of pydantic take."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidied(item) for key, item in value.items() if key != "title" or not isinstance(item, str)}
    if len(tidy.get("allOf", ())) == 1:
        tidy |= tidy.pop("allOf")[0]
    if "const" in tidy:
        tidy.pop("enum", None)
    return tidy


def _required(model: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be there where nothing is extended: `required`, and the same inside each key."""
    inner = {}
    for key, value in model.get("properties", {}).items():
        for reference in re.findall(r"#/\$defs/(\w+)", json.dumps(value)):
            below = _required(definitions[reference], definitions)
            if below:
                holder = next((word for word in ("additionalProperties", "items") if word in value), None)
                inner[key] = {holder: below} if holder else below
    found: dict[str, Any] = {"required": model["required"]} if "required" in model else {}
    return found | ({"properties": inner} if inner else {})


def _or_null(value: dict[str, Any]) -> dict[str, Any]:
    """The same value or null, which in a spec that extends another removes the key."""
    if {"type": "null"} in value.get("anyOf", ()):
        return value
    outer: dict[str, Any] = {key: value[key] for key in ("description", "default") if key in value}
    rest = {key: item for key, item in value.items() if key not in outer}
    choices = rest["anyOf"] if list(rest) == ["anyOf"] else [rest]
    return {**outer, "anyOf": [*choices, {"type": "null"}]}


def _words(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a JSON Schema allows, in a few words of Markdown."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        choices = definitions[name].get("enum")
        return _one_of(choices) if choices else f"[{name}](#{name.lower()})"
    if "enum" in value:
        return _one_of(value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(
            _words(choice, definitions) for choice in value["anyOf"] if choice != {"type": "null"}
        )
    kind = value.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(_words({"type": one}, definitions) for one in kind)
    if kind == "object" and "$ref" in (value.get("additionalProperties") or {}):
        return f"mapping of {_words(value['additionalProperties'], definitions)}"
    if kind == "array":
        return f"list of {_words(value['items'], definitions)}" if "items" in value else "list"
    limits = [f"{sign} {_number(value[bound])}" for bound, sign in _BOUNDS.items() if bound in value]
    return " ".join((_TYPES.get(kind, kind), ", ".join(limits))).strip()


def _number(value: float) -> str:
    exponent = math.log2(value) if value > 2**20 else 0.5
    return f"2^{exponent:.0f}" if exponent.is_integer() else f"{value:g}"


def _default(value: Any) -> str:
    return "none" if value in (None, {}, []) else f"`{json.dumps(value)}`"


def _one_of(choices: list[Any]) -> str:
    return ", ".join(f"`{choice}`" for choice in choices)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
