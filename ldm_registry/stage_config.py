"""The config of a stage: what its checkpoint states, and what a spec may add to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.interfaces import Component, ComponentConfig
from ldm_registry.spec import ConditionerSpec, DenoiserSpec, SchedulerSpec, StageSpec
from ldm_registry.weights import classes_of, parse_config, read_config

AnyStage = StageSpec | DenoiserSpec | SchedulerSpec | ConditionerSpec


def config_of(component: type[Component], stage: AnyStage, folder: Path | None) -> ComponentConfig:
    """The config of a stage: from its checkpoint, or the spec.

    Where there is a checkpoint, the spec may set what its config does not state, and may repeat what it states.

    Raises:
        SpecError: It is not valid, or the spec contradicts the checkpoint.
        CheckpointError: The checkpoint's config is for another class.
    """
    where = f"{component.kind} {stage.use!r}"
    if folder is None:
        return parse_config(component, stage.config, where)
    values = read_config(folder)
    _check_class(component, values, folder)
    config = parse_config(component, values, str(folder / "config.json"))
    if not stage.config:
        return config
    # A stored key is what its library means by it, even where it is spelt like a name of ours.
    both = {**values, **_by_alias(component, stage.config)}
    joined = parse_config(component, both, where)
    differing = [
        f"{key}: the spec says {getattr(joined, key)!r}, the checkpoint {getattr(config, key)!r}"
        for key in type(config).model_fields
        if key in config.model_fields_set and getattr(joined, key) != getattr(config, key)
    ]
    if differing:
        raise SpecError(
            f"{where} contradicts its checkpoint {folder}",
            differing,
            hint="`config:` can only set what config.json leaves to its class",
        )
    return joined


def _by_alias(component: type[Component], values: Mapping[str, Any]) -> dict[str, Any]:
    fields = component.Config.model_fields
    return {(fields[key].alias or key) if key in fields else key: value for key, value in values.items()}


def _check_class(component: type[Component], values: Mapping[str, Any], folder: Path) -> None:
    """Refuse the config of another model before its keys are compared one by one."""
    stated = classes_of(values)
    read = {component.diffusers_class, *component.also_reads, component.name}
    if stated and not read & set(stated):
        raise CheckpointError(
            f"{folder} is a checkpoint of {' and '.join(map(ascii, stated))}",
            [f"{component.kind} {component.name!r} reads {', '.join(sorted(filter(None, read)))}"],
            hint="name the component that the checkpoint is for, or another checkpoint",
        )
