"""What a component says about itself: its class, its config, its distribution."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path

from pydantic import ValidationError

from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Conditioner,
    Decoder,
    Denoiser,
    Encoder,
    Modifier,
    NoiseSchedule,
    Scheduler,
)
from ldm_registry.registry import Registry
from ldm_registry.testing.check import asked_of, require
from ldm_registry.testing.subject import Subject
from ldm_registry.vocabulary import Kind

INTERFACES: dict[Kind, type[Component]] = {
    Kind.ENCODER: Encoder,
    Kind.DENOISER: Denoiser,
    Kind.SCHEDULER: Scheduler,
    Kind.DECODER: Decoder,
    Kind.SCHEDULE: NoiseSchedule,
    Kind.CONDITIONER: Conditioner,
    Kind.MODIFIER: Modifier,
}
LISTING = "import sys; from ldm_registry.registry import Registry; Registry.discover().entries(); print(*sys.modules)"


@asked_of()
def is_concrete_and_final(subject: Subject) -> None:
    """Every abstract method is implemented, and the class is marked `@final`."""
    component = subject.component
    lacking = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
    require(not inspect.isabstract(component), f"{component.__name__} does not implement {lacking}")
    require("__final__" in vars(component), f"{component.__name__} is not marked @final (typing.final)")


@asked_of()
def kind_name_and_config_are_declared(subject: Subject) -> None:
    """`kind` is that of its interface, `name` is well formed, and `Config` is a ComponentConfig."""
    component = subject.component
    interface = INTERFACES.get(component.kind)
    require(interface is not None, f"kind {component.kind!r} is none of {', '.join(Kind)}")
    require(
        interface is not None and issubclass(component, interface),
        f"kind is {component.kind!r}, but the class is not a {interface.__name__ if interface else ''}",
    )
    join = "_" if component.kind is Kind.SCHEDULE else "-"
    name = getattr(component, "name", None)
    require(
        isinstance(name, str) and re.fullmatch(f"[a-z0-9]+({join}[a-z0-9]+)*", name) is not None,
        f"name is {name!r}; expected lower-case words joined by {join!r}",
    )
    declared = getattr(component, "Config", None)
    require(
        inspect.isclass(declared) and issubclass(declared, ComponentConfig),
        f"Config is {declared!r}; expected a subclass of ComponentConfig",
    )
    require(
        type(subject.config) is declared,
        f"tried with a {type(subject.config).__name__}; Config is {getattr(declared, '__name__', declared)}",
    )


@asked_of()
def config_is_frozen(subject: Subject) -> None:
    """No field of a config can be set after it was made."""
    require(bool(type(subject.config).model_config.get("frozen")), "model_config has frozen=False")


@asked_of()
def config_forbids_unknown_keys(subject: Subject) -> None:
    """A key that the config does not know is an error, not ignored."""
    config = subject.config
    try:
        type(config).model_validate({**config.model_dump(by_alias=True), "no_such_key": 0})
    except ValidationError:
        return
    require(False, "the config took the unknown key 'no_such_key' without an error")


@asked_of()
def config_fields_are_described(subject: Subject) -> None:
    """Every field has a `Field(description=...)`, which is what `ldm show` prints."""
    fields = type(subject.config).model_fields
    bare = [name for name, info in fields.items() if not (info.description or "").strip()]
    require(not bare, f"fields without a description: {', '.join(bare)}")


@asked_of()
def config_holds_scalars_and_tuples(subject: Subject) -> None:
    """Values are numbers, strings, booleans, enumerations, None and tuples of them, so configs compare and hash."""
    wrong = [name for name, value in subject.config if not _is_plain(value)]
    require(not wrong, f"neither scalar nor tuple: {', '.join(wrong)}")


@asked_of()
def config_survives_json(subject: Subject) -> None:
    """Written to `config.json` and read back, a config is equal to itself; and it has a JSON schema."""
    config = subject.config
    back = type(config).model_validate(json.loads(config.model_dump_json(by_alias=True)))
    require(back == config, f"{config!r} came back as {back!r}")
    type(config).model_json_schema()


@asked_of()
def component_keeps_its_config(subject: Subject) -> None:
    """`component.config` is what it was built from."""
    kept = getattr(subject.fresh(), "config", None)
    require(kept == subject.config, f"config is {kept!r}; it was built from {subject.config!r}")


@asked_of()
def an_installed_distribution_declares_it(subject: Subject) -> None:
    """An entry point `kind.name` in group `ldm_registry` leads to this very class."""
    component = subject.component
    registry, name = Registry.discover(), f"{component.kind}.{component.name}"
    require(
        any(entry.key == (component.kind, component.name) for entry in registry.entries()),
        f"no installed distribution declares {name!r}; add it to [project.entry-points.ldm_registry] in "
        "pyproject.toml and install it (pip install -e .)",
    )
    found = registry.get(component.kind, component.name)
    require(
        found is component,
        f"{name!r} is {found.__module__}.{found.__qualname__}, not {component.__module__}.{component.__qualname__}",
    )


@asked_of()
def listing_imports_neither_it_nor_torch(subject: Subject) -> None:
    """What is installed can be listed in a fresh process without importing torch or the plugin."""
    path = os.pathsep.join([str(Path(entry)) for entry in sys.path if entry])
    done = subprocess.run(
        [sys.executable, "-c", LISTING],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"listing failed: {done.stderr.strip()[-400:]}")
    imported = sorted({"torch", subject.component.__module__} & set(done.stdout.split()))
    require(not imported, f"listing imports {', '.join(imported)}")


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool | Enum)


CHECKS = (
    is_concrete_and_final,
    kind_name_and_config_are_declared,
    config_is_frozen,
    config_forbids_unknown_keys,
    config_fields_are_described,
    config_holds_scalars_and_tuples,
    config_survives_json,
    component_keeps_its_config,
    an_installed_distribution_declares_it,
    listing_imports_neither_it_nor_torch,
)
