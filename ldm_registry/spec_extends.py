"""One spec made out of another and a few changed lines. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.spec_errors import invalid_spec, problem
from ldm_registry.spec_paths import PATH_KEYS, absolute, find_spec, shown
from ldm_registry.spec_values import type_name
from ldm_registry.vocabulary import STAGES, Kind
from ldm_registry.yaml_reader import Node, Place, read_yaml

EXTENDS = "extends"
MAX_CHAIN = 8
"""Files that may extend one another in a row."""

# What belongs to one implementation of a stage and means nothing to another one.
_OWN_KEYS = ("checkpoint", "variant", "contract", "config", "trained", "tokenizer", "modify")


def read_chain(path: Path) -> Node:
    """Read a spec file and everything that it extends into one tree of absolute paths.

    Args:
        path: Of the file, absolute.

    Raises:
        SpecError: A file of the chain is refused, the chain closes on itself or is too long.
        NotFoundError: A file of the chain does not exist.
    """
    chain = [path]
    trees = [_read_one(path)]
    while (parent := _parent(trees[-1], chain)) is not None:
        chain.append(parent)
        trees.append(_read_one(parent))
    tree = trees.pop()
    while trees:
        tree = merge(tree, trees.pop())
    return _without(tree, EXTENDS)


def merge(parent: Node, child: Node, keys: tuple[str, ...] = ()) -> Node:
    """A parent's values with a child's in their place.

    Mappings merge key by key, everything else is replaced, and null removes a key. A stage whose `use` changes
    keeps nothing of the parent's that belongs to the old component: checkpoint, config, trained, ...; a scheduler
    keeps its number of steps. A noise schedule whose name changes keeps none of its settings.

    Args:
        parent: What is extended.
        child: What is said anew.
        keys: Where the two stand in the spec.
    """
    if not isinstance(parent.value, Mapping) or not isinstance(child.value, Mapping):
        return child
    items = _what_stays(parent.value, child.value, keys)
    for key, node in child.value.items():
        if node.value is None:
            items.pop(key, None)
        elif key in items:
            items[key] = merge(items[key], node, (*keys, key))
        else:
            items[key] = _without_nulls(node)
    return Node(items, child.place, child.key_place)


def node_of(value: Any) -> Node:
    """Plain values as nodes that stand in no file.

    Args:
        value: A scalar, a path, a model, or lists and mappings of such.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, Mapping):
        return Node({str(key): node_of(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return Node(tuple(node_of(item) for item in value))
    if isinstance(value, str | Path):
        return Node(str(value))
    if value is None or isinstance(value, bool | int | float):
        return Node(value)
    raise ValueError(f"got {type_name(value)}; a spec holds texts, numbers, lists and mappings")


def _what_stays(
    parent: Mapping[str, Node], child: Mapping[str, Node], keys: tuple[str, ...]
) -> dict[str, Node]:
    items = dict(parent)
    is_component = keys[:1] == ("conditioners",) if len(keys) == 2 else len(keys) == 1 and keys[0] in STAGES
    if is_component and _changes("use", parent, child):
        for key in _OWN_KEYS:
            items.pop(key, None)
        config = parent["config"].value if "config" in parent else None
        if keys[0] == Kind.SCHEDULER and isinstance(config, Mapping) and "steps" in config:
            items["config"] = Node(
                {"steps": config["steps"]}, parent["config"].place, parent["config"].key_place
            )
    if keys and keys[-1] == "schedule" and _changes("name", parent, child):
        items.clear()
    return items


def _changes(key: str, parent: Mapping[str, Node], child: Mapping[str, Node]) -> bool:
    return key in child and (key not in parent or parent[key].value != child[key].value)


def _without_nulls(node: Node) -> Node:
    if not isinstance(node.value, Mapping):
        return node
    items = {key: _without_nulls(item) for key, item in node.value.items() if item.value is not None}
    return Node(items, node.place, node.key_place)


def _without(tree: Node, key: str) -> Node:
    assert isinstance(tree.value, Mapping)
    return Node({name: node for name, node in tree.value.items() if name != key}, tree.place)


def _read_one(path: Path) -> Node:
    name = shown(path)
    tree = read_yaml(path, name)
    if not isinstance(tree.value, Mapping):
        found = "it is empty" if tree.value is None else f"got {type_name(tree.plain())}"
        raise invalid_spec(name, [f"{tree.place}: {found}; expected a mapping that starts with `version: 1`"])
    for keys in PATH_KEYS:
        tree = _absolute_at(tree, keys, path.parent)
    return tree


def _absolute_at(node: Node, keys: tuple[str, ...], folder: Path) -> Node:
    """The tree with the path under some keys made absolute, where there is one."""
    if not keys:
        return (
            Node(absolute(node.value, folder), node.place, node.key_place)
            if isinstance(node.value, str)
            else node
        )
    if not isinstance(node.value, Mapping):
        return node
    reached = {key: item for key, item in node.value.items() if keys[0] in (key, "*")}
    items = {**node.value, **{key: _absolute_at(item, keys[1:], folder) for key, item in reached.items()}}
    return Node(items, node.place, node.key_place)


def _parent(tree: Node, chain: list[Path]) -> Path | None:
    """The file that the last one of a chain extends."""
    assert isinstance(tree.value, Mapping)
    node = tree.value.get(EXTENDS)
    if node is None:
        return None
    if not isinstance(node.value, str):
        message = f"got {type_name(node.plain())}; expected a YAML file or the name of a bundled spec"
        raise invalid_spec(shown(chain[-1]), [problem(node.place, [EXTENDS], message)])
    try:
        parent = find_spec(node.value, chain[-1].parent)
    except (SpecError, NotFoundError) as error:
        line = problem(node.place, [EXTENDS], error.summary)
        raise type(error)(
            f"{shown(chain[-1])} extends what cannot be read", [line, *error.problems], error.hint
        ) from None
    _check_chain([*chain, parent], node.place)
    return parent


def _check_chain(chain: list[Path], place: Place | None) -> None:
    names = " -> ".join(shown(path) for path in chain)
    if chain[-1].resolve() in [path.resolve() for path in chain[:-1]]:
        message = f"specs extend one another in a circle: {names}"
    elif len(chain) > MAX_CHAIN:
        message = f"more than {MAX_CHAIN} specs extend one another: {names}"
    else:
        return
    raise invalid_spec(shown(chain[0]), [problem(place, [EXTENDS], message)])
