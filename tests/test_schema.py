from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ldm_registry.spec import PipelineSpec, bundled_dir, json_schema, load_spec
from ldm_registry.spec_paths import PATH_KEYS
from ldm_registry.spec_reference import (
    PAGE_FILE,
    SCHEMA_FILE,
    described_models,
    field_table,
    schema_text,
    with_tables,
)
from ldm_registry.yaml_reader import parse_yaml

AGAIN = "run `python -m ldm_registry.spec_reference docs` and commit the result"
SCHEMA = json_schema()


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / PAGE_FILE).read_text("utf-8")


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every model in a schema: what has named properties and refuses or takes others."""
    if isinstance(value, dict):
        if "properties" in value and "type" in value:
            yield value
        for item in value.values():
            yield from objects(item)


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value fits, by as much of JSON Schema as ours uses."""
    if "$ref" in schema:
        return accepts(SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], value)
    if "anyOf" in schema and not any(accepts(choice, value) for choice in schema["anyOf"]):
        return False
    if "if" in schema and not accepts(schema["if"], value) and not accepts(schema["else"], value):
        return False
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return False
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(value, dict):
        return _accepts_object(schema, value)
    if isinstance(value, list):
        within = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return within and all(accepts(schema.get("items", {}), item) for item in value)
    if isinstance(value, int | float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def _accepts_object(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    if not set(schema.get("required", ())) <= set(value):
        return False
    others = schema.get("additionalProperties", {})
    named = schema.get("properties", {})
    if others is False and not set(value) <= set(named):
        return False
    return all(accepts(named.get(key, others), item) for key, item in value.items())


def _is(value: Any, kind: str) -> bool:
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "integer": int,
    }
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kinds[kind]) and not (kind == "integer" and isinstance(value, bool))


def test_the_published_schema_is_the_one_of_the_models(root: Path) -> None:
    published = (root / "docs" / SCHEMA_FILE).read_text("utf-8")
    # As values: releases of pydantic differ in the order of the keys.
    assert json.loads(published) == json.loads(schema_text()), AGAIN


def test_the_tables_of_the_reference_are_those_of_the_models(page: str) -> None:
    assert page == with_tables(page), AGAIN


def test_the_reference_describes_every_model(page: str) -> None:
    assert sorted(described_models(page)) == sorted(
        [
            PipelineSpec.__name__,
            *(name for name, schema in SCHEMA["$defs"].items() if "properties" in schema),
        ]
    )


def test_every_link_of_the_reference_leads_to_a_heading(page: str) -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert links
    assert set(links) <= headings


def test_every_key_is_described() -> None:
    models = list(objects(SCHEMA))
    assert len(models) > 8
    for model in models:
        for key, value in model["properties"].items():
            assert value.get("description"), key


def test_every_model_but_the_schedule_refuses_unknown_keys() -> None:
    others = {
        name: schema.get("additionalProperties")
        for name, schema in SCHEMA["$defs"].items()
        if "enum" not in schema
    }
    assert others.pop("ScheduleSpec") is not False
    assert set(others.values()) == {False}
    assert SCHEMA["additionalProperties"] is False


@pytest.mark.parametrize("keys", PATH_KEYS, ids=".".join)
def test_every_key_that_holds_a_path_exists(keys: tuple[str, ...]) -> None:
    schema = SCHEMA
    for key in keys:
        found = schema["additionalProperties"] if key == "*" else schema["properties"][key]
        choices = found.get("anyOf", [found])
        mappings = [choice for choice in choices if "additionalProperties" in choice]
        if mappings:
            schema = mappings[0]
            continue
        references = [choice["$ref"] for choice in choices if "$ref" in choice]
        schema = SCHEMA["$defs"][references[0].rsplit("/", 1)[1]] if references else found
    assert {"type": "string"} in schema["anyOf"]


def test_every_bundled_spec_fits_the_schema() -> None:
    paths = sorted(bundled_dir().rglob("*.yaml"))
    assert paths
    for path in paths:
        assert accepts(SCHEMA, parse_yaml(path.read_bytes(), path.name).plain()), path.name


def test_every_example_of_the_reference_can_be_read_and_fits_the_schema(page: str, tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        assert load_spec(path).version == 1
        assert accepts(SCHEMA, parse_yaml(example.encode(), path.name).plain())


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    whole: dict[str, Any] = {
        "version": 1,
        "image": {"size": 64},
        **{stage: {"use": "x"} for stage in ("encoder", "denoiser", "scheduler", "decoder")},
    }
    assert accepts(SCHEMA, whole)
    wrong: list[dict[str, Any]] = [
        {"version": 2},
        {"image": {"size": 64.5}},
        {"image": {"size": [64]}},
        {"image": {}},
        {"encoder": {"checkpoint": "x"}},
        {"encoder": {"use": "x", "target": "y"}},
        {"encoder": {"use": "x", "config": {"a": {"b": 1}}}},
        {"decoder": {"use": "x", "dtype": "int8"}},
        {"condition": {"class_label": 1.5}},
        {"guidance": {"scale": "2"}},
        {"denoiser": {"use": "x", "trained": {"prediction": "v"}}},
        {"train": {"codec": {"steps": 0}}},
        {"seeed": 1},
    ]
    for change in wrong:
        assert not accepts(SCHEMA, whole | change), change
    without = {key: value for key, value in whole.items() if key != "decoder"}
    assert not accepts(SCHEMA, without)
    assert accepts(
        SCHEMA, without | {"extends": "other.yaml", "encoder": {"checkpoint": "x"}, "condition": None}
    )


def test_a_table_shows_bounds_choices_and_defaults() -> None:
    table = field_table("TrainedSpec")
    assert "| `prediction` | `x0`, `epsilon`, `v`, `velocity`, `reverse_velocity`, `f` | required |" in table
    assert "| `time_scale` | number > 0 | `1.0` |" in table
    assert "| `seed` | integer >= 0, < 2^63 | `0` |" in field_table("PipelineSpec")
