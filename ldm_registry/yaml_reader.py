"""YAML that somebody else wrote, read within fixed bounds, every value with the place where it stands.

The parser's events are turned into nodes directly. Nothing recurses, no object is constructed and no alias is
expanded, so neither 100 000 nested brackets nor a bomb of aliases costs more than the text itself. Imports no
torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import yaml

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.yaml_scalars import CONTROL, MAX_SCALAR, Scalar, has_control_characters, resolve_scalar

__all__ = ["Node", "Place", "Scalar", "not_readable", "parse_yaml", "read_yaml", "resolve_scalar"]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_PROBLEMS = 20
"""After this many the rest of a file is not looked at."""

_DIRECTIVE = re.compile("^%", re.MULTILINE)
# Both put out the same events; the C parser exists in every wheel of PyYAML.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands.

    Attributes:
        file: As it is shown to people.
        line: From 1.
        column: From 1.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value with the places where it and its key stand.

    Attributes:
        value: A scalar, a tuple of nodes or a mapping of nodes.
        place: Of the value; None for a value that stands in no file.
        key_place: Of the key, for the value of a mapping.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    place: Place | None = None
    key_place: Place | None = None

    def plain(self) -> Any:
        """The bare value: scalars, lists and dictionaries."""
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        return self.value


def read_yaml(path: Path, shown_as: str | None = None) -> Node:
    """Read one YAML file.

    Args:
        path: A regular file of at most 256 KiB.
        shown_as: Its name in messages; the path itself by default.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It cannot be read, is too large, or `parse_yaml` refuses it.
    """
    name = shown_as or str(path)
    if not path.exists():
        raise NotFoundError(f"there is no file {name}")
    if not path.is_file():
        raise SpecError(f"{name} is not a file", hint="name a YAML file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{name} cannot be read: {error.strerror}") from None
    return parse_yaml(data, name)


def parse_yaml(data: bytes, name: str) -> Node:
    """Read one YAML document.

    Args:
        data: UTF-8, with or without a byte order mark.
        name: Of the file, for messages.

    Returns:
        The root; its value is None for an empty document.

    Raises:
        SpecError: It breaks a bound (256 KiB, depth 32, 10 000 values, 4096 characters a value), is not
            UTF-8, holds control characters, anchors, aliases, tags, directives, merge keys, duplicate keys,
            keys that are not strings, numbers that are not finite or a second document, or is not YAML.
    """
    if len(data) > MAX_BYTES:
        raise SpecError(
            f"{name} is larger than {MAX_BYTES // 1024} KiB",
            hint="a spec is a few dozen lines; is this the right file?",
        )
    text = _decode(data, name)
    reader = _Reader(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        reader.report(_place_of(error, name), str(error.problem or error.context))
    except yaml.YAMLError as error:
        reader.report(None, str(error))
    except _GivenUpError:
        pass
    if reader.problems:
        raise not_readable(name, reader.problems)
    return reader.root or Node(None, Place(name, 1, 1))


def not_readable(name: str, problems: list[str]) -> SpecError:
    """The error for a text whose values cannot even be told."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return SpecError(f"{name} cannot be read as YAML ({count})", problems)


def _place_of(error: yaml.MarkedYAMLError, name: str) -> Place | None:
    mark = error.problem_mark or error.context_mark
    return Place(name, mark.line + 1, mark.column + 1) if mark is not None else None


def _decode(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(name, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise not_readable(name, [f"{place}: byte 0x{data[error.start]:02x} is not UTF-8"]) from None
    # Directives are refused before libyaml sees them: it compares each %TAG with every other one.
    found = CONTROL.search(text) or _DIRECTIVE.search(text)
    if found is None:
        return text
    start = found.start()
    place = Place(name, text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start))
    if found[0] == "%":
        raise not_readable(name, [f"{place}: directives (lines that start with %) are not allowed"])
    raise not_readable(name, [f"{place}: control character U+{ord(found[0]):04X} is not allowed"])


class _GivenUpError(Exception):
    """There is no point, or some danger, in reading on."""


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open."""

    place: Place
    key_place: Place | None
    items: list[Node] | dict[str, Node]
    key: tuple[str, Place] | None = None
    """The key that waits for its value."""


@final
@dataclass(slots=True)
class _Reader:
    """Builds nodes from events with a stack of its own, and collects what is wrong."""

    name: str
    root: Node | None = None
    problems: list[str] = field(default_factory=list)
    _open: list[_Frame] = field(default_factory=list)
    _nodes: int = 0

    def report(self, place: Place | None, message: str) -> None:
        where = ".".join(frame.key[0] for frame in self._open if frame.key)
        self.problems.append(": ".join(filter(None, [str(place or self.name), where, message])))
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append("there may be more; this is where reading stopped")
            raise _GivenUpError

    def give_up(self, place: Place, message: str) -> None:
        self.report(place, message)
        raise _GivenUpError

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None, "a parser marks every event"
        place = Place(self.name, mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self.give_up(place, "a second document starts here; a spec is one document")
        elif isinstance(event, yaml.NodeEvent):
            self._count(event, place)
            if isinstance(event, yaml.CollectionStartEvent):
                self._start_collection(event, place)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event, place)
            else:
                self.report(place, f"alias '*{event.anchor}' is not allowed; write the value out")
                self._add_scalar(None, place, plain=False)
        elif isinstance(event, yaml.CollectionEndEvent):
            frame = self._open.pop()
            items = tuple(frame.items) if isinstance(frame.items, list) else frame.items
            self._add(Node(items, frame.place, frame.key_place))

    def _count(self, event: yaml.NodeEvent, place: Place) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self.give_up(place, f"more than {MAX_NODES} values")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.report(
                place, f"tag {tag!r} is not allowed; values are plain strings, numbers, lists and mappings"
            )
        if event.anchor is not None and not isinstance(event, yaml.AliasEvent):
            self.report(
                place, f"anchor '&{event.anchor}' is not allowed; write the value out where it is used"
            )

    def _start_collection(self, event: yaml.CollectionStartEvent, place: Place) -> None:
        if len(self._open) >= MAX_DEPTH:
            self.give_up(place, f"nested more than {MAX_DEPTH} deep")
        frame = self._open[-1] if self._open else None
        if frame and isinstance(frame.items, dict) and frame.key is None:
            self.give_up(place, "a key has to be a plain word, not a list or a mapping")
        key_place = frame.key[1] if frame and frame.key else None
        items: list[Node] | dict[str, Node] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        self._open.append(_Frame(place, key_place, items))

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> None:
        text, plain = event.value, bool(event.implicit[0])
        if len(text) > MAX_SCALAR:
            self.report(place, f"a text of {len(text)} characters; {MAX_SCALAR} are the most")
            text, plain = text[:MAX_SCALAR], False
        elif has_control_characters(text):
            self.report(place, "control characters are not allowed, also not as escapes")
        try:
            value = resolve_scalar(text) if plain else text
        except ValueError as error:
            self.report(place, f"{text[:40]!r} is {error}")
            value = None
        self._add_scalar(value, place, plain=plain and text == "<<")

    def _add_scalar(self, value: Scalar, place: Place, *, plain: bool) -> None:
        frame = self._open[-1] if self._open else None
        if frame and isinstance(frame.items, dict) and frame.key is None:
            self._start_value(frame, frame.items, value, place, merge=plain)
        else:
            self._add(Node(value, place, frame.key[1] if frame and frame.key else None))

    def _start_value(
        self, frame: _Frame, items: dict[str, Node], key: Scalar, place: Place, *, merge: bool
    ) -> None:
        """Take a scalar as the key of the value that comes next."""
        if merge:
            self.report(place, "merge keys (<<) are not allowed; a spec extends another with `extends:`")
        elif not isinstance(key, str):
            self.report(place, f"key {key!r} is not a string; put it in quotes")
        elif key in items:
            first = items[key].key_place
            at = f", first on line {first.line}, column {first.column}" if first else ""
            self.report(place, f"duplicate key {key!r}{at}")
        frame.key = (str(key), place)

    def _add(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        if isinstance(frame.items, list):
            frame.items.append(node)
        elif frame.key:
            frame.items[frame.key[0]] = node
            frame.key = None
