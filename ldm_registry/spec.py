"""The spec: a YAML file, read to a frozen `PipelineSpec`, changed without being mutated, written again.

No torch: a spec can be read, checked against its own grammar, changed and written in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ldm_registry.errors import did_you_mean
from ldm_registry.spec_errors import fields_at, invalid_spec, problem, problems_of
from ldm_registry.spec_extends import EXTENDS, merge, node_of, read_chain
from ldm_registry.spec_models import (
    ConditionerSpec,
    DataSpec,
    DenoiserSpec,
    GuidanceSpec,
    ImageSpec,
    ModifierSpec,
    PipelineSpec,
    SchedulerSpec,
    ScheduleSpec,
    StageSpec,
    TrainedSpec,
)
from ldm_registry.spec_paths import (
    absolute,
    bundled_dir,
    bundled_specs,
    find_spec,
    has_scheme,
    holds_path,
    shown,
)
from ldm_registry.spec_reference import json_schema
from ldm_registry.spec_runtime import CodecRuntimeSpec, ConditionerRuntimeSpec, RuntimeSpec
from ldm_registry.spec_text import dump_spec, plain
from ldm_registry.spec_values import FrozenMapping
from ldm_registry.vocabulary import STAGES
from ldm_registry.yaml_reader import Node

__all__ = [
    "CodecRuntimeSpec",
    "ConditionerRuntimeSpec",
    "ConditionerSpec",
    "DataSpec",
    "DenoiserSpec",
    "FrozenMapping",
    "GuidanceSpec",
    "ImageSpec",
    "ModifierSpec",
    "PipelineSpec",
    "RuntimeSpec",
    "ScheduleSpec",
    "SchedulerSpec",
    "StageSpec",
    "TrainedSpec",
    "bundled_dir",
    "bundled_specs",
    "dump_spec",
    "json_schema",
    "load_spec",
    "spec_digest",
    "swap",
]


def load_spec(source: str | Path) -> PipelineSpec:
    """Read a spec.

    Args:
        source: A YAML file, or the name of a bundled spec with or without `.yaml`.

    Returns:
        The spec with everything that it extends, its paths absolute, and `source` set.

    Raises:
        SpecError: It is not valid; says every problem with file, line, column and key path.
        NotFoundError: There is no such file and no such bundled spec.
    """
    path = find_spec(str(source), Path.cwd())
    return _validated(read_chain(path), shown(path)).with_source(path)


def swap(spec: PipelineSpec, **changes: Any) -> PipelineSpec:
    """The same spec with some parts changed, as if by a spec that extends it with just these lines.

    Args:
        spec: Left as it is.
        **changes: A stage (`denoiser="unet"`), a field of one (`denoiser_checkpoint="..."`,
            `scheduler_config={"steps": 20}`, `decoder_dtype="float16"`), or another value (`seed`,
            `guidance_scale`, `image_size`, `condition`, `data_images`). A new component in a stage drops that
            stage's checkpoint, config and `trained` unless they are given too; a scheduler keeps its `steps`.
            Mappings are merged key by key; None removes a value. A relative path counts from the spec's own
            folder where something is there, else from the current one.

    Raises:
        SpecError: A key or a value is not valid; says all of them.
    """
    targets = _targets()
    child: dict[str, Any] = {}
    problems = []
    for name, value in changes.items():
        if name not in targets:
            problems.append(f"{name}: unknown key; {did_you_mean(name, list(targets))}")
            continue
        keys = targets[name]
        try:
            node = _located(node_of(value), keys, spec.source)
        except ValueError as error:
            problems.append(problem(None, keys, str(error)))
            continue
        _put(child, keys, node)
    if problems:
        raise invalid_spec("the changed spec", problems)
    return _validated(merge(node_of(plain(spec)), _tree(child)), "the changed spec").with_source(spec.source)


def spec_digest(spec: PipelineSpec) -> str:
    """SHA-256 of what a spec says, hexadecimal.

    Does not depend on how it was written: order, defaults, `extends`. Paths count as seen from the spec's own
    file, so that two machines with the same tree of files agree.
    """
    folder = spec.source.parent if spec.source else None
    values = _canonical(plain(spec, folder, defaults=True))
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _validated(tree: Node, name: str) -> PipelineSpec:
    problems = []
    if not isinstance(tree.value, Mapping) or "version" not in tree.value:
        problems.append(problem(tree.place, ["version"], "is missing; write `version: 1`"))
    try:
        # Strict JSON: no text counts as a number, but lists become tuples and words become enum members.
        spec = PipelineSpec.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        problems += problems_of(error, tree, PipelineSpec, also=[EXTENDS])
    if problems:
        raise invalid_spec(name, problems)
    return spec


def _targets() -> dict[str, tuple[str, ...]]:
    """Every keyword of `swap` and the key path that it changes."""
    targets: dict[str, tuple[str, ...]] = {}
    for field in PipelineSpec.model_fields:
        if field != "version":
            targets[field] = (field, "use") if field in STAGES else (field,)
            targets |= {f"{field}_{inner}": (field, inner) for inner in fields_at(PipelineSpec, [field])}
    return targets


def _located(node: Node, keys: tuple[str, ...], source: Path | None) -> Node:
    """The value with its paths made absolute, where it is one or holds some."""
    if isinstance(node.value, Mapping):
        return Node({key: _located(item, (*keys, key), source) for key, item in node.value.items()})
    if not holds_path(keys) or not isinstance(node.value, str) or has_scheme(node.value):
        return node
    beside = absolute(node.value, source.parent) if source else None
    exists = beside is not None and Path(beside).exists()
    return Node(beside if exists else absolute(node.value, Path.cwd()))


def _put(tree: dict[str, Any], keys: tuple[str, ...], node: Node) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = node


def _tree(values: Any) -> Node:
    return Node({key: _tree(item) for key, item in values.items()}) if isinstance(values, dict) else values


def _canonical(value: Any) -> Any:
    """Equal values in one spelling: 2.0 is written 2."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
