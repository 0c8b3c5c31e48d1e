"""The values that stand in a spec: immutable, finite, and refused with words that say what was expected.

Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from ldm_registry.spec_paths import checked_checkpoint, checked_local
from ldm_registry.vocabulary import DType
from ldm_registry.yaml_scalars import MAX_SCALAR, has_control_characters

MAX_VALUE_DEPTH = 8
"""How deep lists nest inside a component's config."""
MAX_SIDE = 16_384

Value = str | int | float | bool | None | tuple["Value", ...]
T = TypeVar("T")


class FrozenModel(BaseModel):
    """Base of a spec's parts: cannot be changed, knows its keys, holds finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@final
class FrozenMapping(Mapping[str, T], Generic[T]):
    """A mapping that cannot be changed, equal to any mapping of the same items."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, T]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> T:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def frozen_value(value: Any) -> Value:
    """A config value with its lists turned into tuples.

    Raises:
        ValueError: It is anything but a finite scalar or a list of such.
    """
    # pydantic would hand its own record to a second parameter.
    return _frozen(value, 0)


def _frozen(value: Any, depth: int) -> Value:
    if isinstance(value, list | tuple):
        if depth >= MAX_VALUE_DEPTH:
            raise ValueError(f"lists nest more than {MAX_VALUE_DEPTH} deep")
        return tuple(_frozen(item, depth + 1) for item in value)
    if isinstance(value, str):
        if has_control_characters(value) or len(value) > MAX_SCALAR:
            raise ValueError(f"expected at most {MAX_SCALAR} characters without control characters")
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"got {value}; expected a finite number")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(
        f"got {type_name(value)}; expected a text, a number, true, false, null or a list of these"
    )


def type_name(value: Any) -> str:
    """What people call the type of a value that stands in YAML."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text", type(None): "null"}
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else names.get(type(value), type(value).__name__)


def _size(value: Any) -> int | tuple[int, int]:
    sides = value if isinstance(value, list | tuple) else (value, value)
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or not all(1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(
            f"got {value!r}; expected the side in pixels or [height, width], each 1 to {MAX_SIDE}"
        )
    return int(sides[0]) if sides[0] == sides[1] else (int(sides[0]), int(sides[1]))


def _condition_values(value: Any) -> tuple[int, ...] | tuple[str, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if values and (all(type(item) is int for item in values) or all(type(item) is str for item in values)):
        return tuple(frozen_value(item) for item in values)  # type: ignore[return-value]  # checked just above
    raise ValueError(f"got {value!r}; expected an integer or a text, or a list of one of the two")


_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def _key(key: str) -> str:
    if not 1 <= len(key) <= 256 or has_control_characters(key):
        raise ValueError("a key has 1 to 256 characters and no control characters")
    return key


def _component_name(name: str) -> str:
    if not _WORD.fullmatch(name):
        raise ValueError(
            f"got {name!r}; expected a registered name such as 'kl-vae' (lower case, hyphens): "
            "components are never named by class path"
        )
    return name


def _local_path(value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(f"got {type_name(value)}; expected a path")
    return Path(checked_local(str(value)))


def _optional_path(value: Any) -> Path | None:
    return None if value is None else _local_path(value)


def _device(device: str | None) -> str | None:
    if device is not None and not re.fullmatch(r"[a-z]+(:[0-9]{1,3})?", device):
        raise ValueError(f"got {device!r}; expected a torch device such as cpu, cuda, cuda:1 or mps")
    return device


def _as_dict(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return dict(mapping)


_SCALARS = [{"type": kind} for kind in ("string", "number", "boolean", "null")]
_VALUE_SCHEMA = {"anyOf": [*_SCALARS, {"type": "array"}]}
FROZEN = (AfterValidator(FrozenMapping), PlainSerializer(_as_dict))

_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_SIDE},
        {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
    ]
}
_CONDITION_SCHEMA = {
    "anyOf": [
        {"type": ["integer", "string"]},
        {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1},
    ]
}

Key = Annotated[str, AfterValidator(_key)]
ConfigValue = Annotated[Any, PlainValidator(frozen_value), WithJsonSchema(_VALUE_SCHEMA)]
Config = Annotated[
    Mapping[Key, ConfigValue],
    *FROZEN,
    Field(description="The component's own settings; `ldm show NAME` lists them. Lists become tuples"),
]
Use = Annotated[
    str,
    AfterValidator(_component_name),
    Field(description="Registered name of the component; `ldm list` shows them"),
]
Checkpoint = Annotated[
    str | None,
    AfterValidator(checked_checkpoint),
    Field(
        description="Folder of weights, relative to this file, or `hf://org/name@<40-hex commit>`; "
        "a part without weights has none"
    ),
]
Variant = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        max_length=64,
        description="Which of several sets of weights in the folder, such as fp16; where there is none, the plain one",
    ),
]
ContractFile = Annotated[
    Path | None,
    PlainValidator(_optional_path),
    WithJsonSchema({"type": "string"}),
    Field(description="Contract of a checkpoint that has none of its own, relative to this file"),
]
Device = Annotated[
    str | None,
    AfterValidator(_device),
    Field(description="torch device, such as cpu or cuda:1; where there is none, the run's own"),
]
Precision = Annotated[
    DType | None, Field(description="Floating-point type of this stage; where there is none, the run's own")
]
ImageSize = Annotated[
    int | tuple[int, int],
    PlainValidator(_size),
    PlainSerializer(_size),
    WithJsonSchema(_SIZE_SCHEMA),
]
ConditionValues = Annotated[Any, PlainValidator(_condition_values), WithJsonSchema(_CONDITION_SCHEMA)]
Condition = Annotated[Mapping[Key, ConditionValues], *FROZEN]
LocalPath = Annotated[Path, PlainValidator(_local_path), WithJsonSchema({"type": "string"})]
