"""Blocks of `target:` and `params:`, read key by key; what nobody asked for is an error with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from ldm_registry.errors import did_you_mean
from ldm_registry.yaml_reader import Node


@final
class Parameters:
    """One `params:` block.

    Args:
        node: The block; None where the file has none.
        where: Its key path.
        problems: What is wrong is added here.
    """

    def __init__(self, node: Node | None, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self._values: Mapping[str, Node] = {}
        self._asked: dict[str, None] = {}
        if node is not None and isinstance(node.value, Mapping):
            self._values = node.value
        elif node is not None and node.value is not None:
            self._say(node, "", f"got {ascii(node.plain())[:60]}, expected a mapping")

    def node(self, key: str) -> Node | None:
        """The value of a key with its place; None where it is not there."""
        self._asked[key] = None
        return self._values.get(key)

    def block(self, key: str) -> Parameters:
        """The block under a key, empty where it is not there."""
        return Parameters(self.node(key), f"{self.where}.{key}".lstrip("."), self.problems)

    def number(self, key: str, default: float | None) -> float | None:
        """A number."""
        value: float | None = self._read(key, default, (int, float), "a number")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int | None:
        """A whole number of at least `least`, at most a million."""
        value: int | None = self._read(key, default, (int,), "a whole number")
        if value is not None and value != default and not least <= value <= 10**6:
            self._say(self._values[key], key, f"got {value}, expected {least} to 1000000")
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return bool(self._read(key, default, (bool,), "true or false"))

    def word(self, key: str, default: str | None, choices: Sequence[str] | None = None) -> str | None:
        """A word, one of the choices where there are any."""
        value: str | None = self._read(key, default, (str,), "a word")
        if value is not None and choices is not None and value not in choices:
            self._say(self._values[key], key, f"{value!a} is not known; {did_you_mean(value, choices)}")
            return default
        return value

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
        """A list of whole numbers from 1, or one of them."""
        node = self.node(key)
        if node is None or node.value is None:
            return default
        values = [item.value for item in node.value] if isinstance(node.value, tuple) else [node.value]
        found = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v <= 10**6)
        if len(found) != len(values) or len(values) > 64:
            self._say(node, key, f"got {ascii(node.plain())[:60]}, expected whole numbers")
            return default
        return found

    def only(self, key: str, allowed: tuple[object, ...], reason: str) -> None:
        """Refuse every value of a key but those that change nothing.

        Args:
            key: Of the block.
            allowed: The values.
            reason: Why others are refused.
        """
        node = self.node(key)
        if node is not None and not any(node.plain() == value for value in allowed):
            self._say(node, key, f"got {ascii(node.plain())[:60]}; {reason}")

    def inert(self, *keys: str) -> None:
        """Pass over keys that only training uses."""
        self._asked.update(dict.fromkeys(keys))

    def finish(self) -> None:
        """Report the keys that nobody asked for."""
        for key in self._values.keys() - self._asked.keys():
            self._say(self._values[key], key, f"is not known here; {did_you_mean(key, list(self._asked))}")

    def report(self, key: str, message: str) -> None:
        """Add a problem of a key."""
        self._say(self._values.get(key), key, message)

    def require(self, *keys: str) -> bool:
        """Report which keys are missing; whether none is."""
        lacking = [key for key in keys if key not in self._values]
        self.problems.extend(f"{self.where}.{key}: is missing" for key in lacking)
        return not lacking

    def _read(self, key: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        node = self.node(key)
        if node is None or node.value is None:
            return default
        value = node.value
        if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
            return value
        self._say(node, key, f"got {ascii(node.plain())[:60]}, expected {expected}")
        return default

    def _say(self, node: Node | None, key: str, message: str) -> None:
        place = node and (node.key_place or node.place)
        path = f"{self.where}.{key}".strip(".")
        self.problems.append(": ".join(filter(None, [str(place) if place else "", path, message])))


def chosen(
    parent: Parameters, key: str, known: Sequence[str], inert: Sequence[str] = ()
) -> tuple[str | None, Parameters]:
    """A block of `target:` and `params:`.

    Args:
        parent: The block around it.
        key: Its key.
        known: The targets that are understood; every other one is refused by name.
        inert: Keys beside them that only training uses.

    Returns:
        The target, None where it is refused or missing, and its parameters.
    """
    block = parent.block(key)
    target = block.node("target")
    name = target.value if target is not None else None
    parameters = block.block("params")
    block.inert(*inert)
    block.finish()
    if isinstance(name, str) and name in known:
        return name, parameters
    got = f"{name!a} is not known" if target is not None else "is missing"
    block.report("target", f"{got}; nothing is imported by name. Known are {', '.join(known)}")
    return None, parameters
