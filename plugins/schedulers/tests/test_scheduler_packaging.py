"""What the distribution declares is what the plugin registers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import ldm_schedulers as plugin
import pytest

from ldm_registry.interfaces import Component
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind

ROOT = Path(__file__).parents[1]


def test_entry_points_name_every_component() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["ldm_registry"]
    registered = {f"{component.kind}.{component.name}" for component in plugin.register_components()}
    assert set(declared) == registered
    assert set(declared.values()) == {plugin.__name__}


def test_the_registry_finds_every_component() -> None:
    registry = Registry([plugin])
    for component in plugin.register_components():
        assert registry.get(component.kind, component.name) is component


@pytest.mark.parametrize("component", plugin.register_components(), ids=lambda component: component.name)
def test_every_component_stands_in_the_card_and_every_field_is_described(component: type[Component]) -> None:
    assert f"`{component.name}`" in (ROOT / "README.md").read_text()
    assert component.__doc__
    for name, field in component.Config.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("component", plugin.register_components(), ids=lambda component: component.name)
def test_every_config_survives_a_round_trip(component: type[Component]) -> None:
    given = {"betas": (0.1, 0.2)} if component.name == "trained_betas" else {}
    config = component.Config(**given)
    assert component.Config.model_validate_json(config.model_dump_json()) == config


def test_both_kinds_are_supplied() -> None:
    kinds = [component.kind for component in plugin.register_components()]
    assert (kinds.count(Kind.SCHEDULE), kinds.count(Kind.SCHEDULER)) == (10, 14)
