"""What pydantic finds wrong with a spec, in words and with the place where each wrong value stands.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.spec_values import type_name
from ldm_registry.yaml_reader import Node, Place

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
}
_SHOWN_CHARACTERS = 60

Keys = Sequence[str | int]


def invalid_spec(name: str, problems: Sequence[str]) -> SpecError:
    """The error that lists every problem of a spec.

    Args:
        name: Of the spec.
        problems: One line each.
    """
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return SpecError(f"{name} is not a valid spec ({count})", problems)


def problem(place: Place | None, keys: Keys, message: str) -> str:
    """One line of an error: place, key path, message."""
    return ": ".join(filter(None, [str(place) if place else "", key_path(keys), message]))


def key_path(keys: Keys) -> str:
    """`train.codec.betas[1]` for `("train", "codec", "betas", 1)`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def problems_of(
    error: ValidationError, root: Node, model: type[BaseModel], also: Iterable[str] = ()
) -> list[str]:
    """Every finding of pydantic as one line, in the order of the file.

    Args:
        error: What `model` raised for `root`.
        root: The values and where they stand.
        model: Gives the valid keys.
        also: Keys that the root takes beyond the model's.
    """
    found = []
    for details in error.errors(include_url=False):
        # Pydantic marks a wrong key by one more step, "[key]".
        keys = tuple(key for key in details["loc"] if key != "[key]")
        place = _place(root, keys, of_key=details["type"] in ("extra_forbidden", "missing"))
        found.append((place, problem(place, keys, _message(details, model, also))))
    order = {
        file: index for index, file in enumerate(dict.fromkeys(place.file for place, _ in found if place))
    }
    found.sort(
        key=lambda pair: (order[pair[0].file], pair[0].line, pair[0].column) if pair[0] else (-1, 0, 0)
    )
    return [line for _, line in found]


def _place(root: Node, keys: Keys, *, of_key: bool) -> Place | None:
    """Where the value of a key path stands, or its nearest parent that exists."""
    node = root
    for key in keys:
        children = node.value
        if isinstance(children, Mapping) and key in children:
            node = children[str(key)]
        elif isinstance(children, tuple) and isinstance(key, int) and key < len(children):
            node = children[key]
        else:
            return node.key_place or node.place
    return node.key_place if of_key and node.key_place else node.place


def _message(details: ErrorDetails, model: type[BaseModel], also: Iterable[str]) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    keys = details["loc"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        choices = [*fields_at(model, keys[:-1]), *(also if len(keys) == 1 else ())]
        return f"unknown key; {did_you_mean(str(keys[-1]), choices)}"
    if kind == "value_error":
        return str(context["error"])
    got = f"got {_shown(given)}"
    if kind in _EXPECTED:
        return f"{got}; expected {_EXPECTED[kind]}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{got}; expected {words.format(f'{context[bound]:g}')}"
    if kind in ("enum", "literal_error"):
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"{got}; " + (
            did_you_mean(str(given), choices) if choices else f"expected {context['expected']}"
        )
    return f"{got}; {details['msg'][0].lower()}{details['msg'][1:]}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple) or value is None:
        return type_name(value)
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    text = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    return f"{text} ({type_name(value)})" if isinstance(value, str) else text


def fields_at(model: type[BaseModel], keys: Keys) -> list[str]:
    """The keys that the model at a key path takes; none where there is no model."""
    current: Any = model
    for key in keys:
        if get_origin(current) is Mapping:
            current = _inner(get_args(current)[1])
        elif get_origin(current) is tuple:
            current = _inner(get_args(current)[0])
        else:
            field = current.model_fields.get(str(key)) if _is_model(current) else None
            current = _inner(field.annotation) if field else None
    return list(current.model_fields) if _is_model(current) else []


def _inner(annotation: Any) -> Any:
    """What stands in `X | None`."""
    if get_origin(annotation) in (Union, UnionType):
        return next(choice for choice in get_args(annotation) if choice is not NoneType)
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
