from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.yaml_reader import MAX_BYTES, parse_yaml, read_yaml
from ldm_registry.yaml_scalars import resolve_scalar

PEAK_MIB = 20


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails when the block takes more than 20 MiB at any moment."""
    tracemalloc.start()
    try:
        yield
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak_mib < PEAK_MIB


def plain(text: str) -> object:
    return parse_yaml(text.encode(), "f.yaml").plain()


def refusal(data: bytes | str) -> SpecError:
    with bounded_memory(), pytest.raises(SpecError) as caught:
        parse_yaml(data.encode() if isinstance(data, str) else data, "f.yaml")
    return caught.value


def message_for(data: bytes) -> str:
    """The refusal's text, or nothing for what is read; any other exception gets through."""
    try:
        parse_yaml(data, "f.yaml")
    except SpecError as error:
        return str(error)
    return ""


def alias_bomb() -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "an alias bomb": (alias_bomb(), "f.yaml:1:5: l0: anchor '&l0' is not allowed"),
    "an alias of itself": ("a: &a [*a]", "f.yaml:1:8: a: alias '*a' is not allowed"),
    "100 000 brackets": ("a: " + "[" * 100_000, "f.yaml:1:35: a: nested more than 32 deep"),
    "100 000 braces": ("{a: " * 50_000, "nested more than 32 deep"),
    "deep block lists": ("- " * 100_000, "f.yaml:1:65: nested more than 32 deep"),
    "deep complex keys": ("? " * 100_000, "f.yaml:1:3: a key has to be a plain word"),
    "a list as a key": ("a: 1\n[b, c]: 2\n", "f.yaml:2:1: a key has to be a plain word"),
    "a mapping as a key": ("a:\n  {b: c}: 2\n", "f.yaml:2:3: a: a key has to be a plain word"),
    "duplicate keys": (
        "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n",
        "f.yaml:5:3: b: duplicate key 'c', first on line 3, column 3",
    ),
    "duplicate keys in flow": ("{a: 1, 'a': 2}", "f.yaml:1:8: duplicate key 'a', first on line 1, column 2"),
    "a Python tag": (
        "a: 1\nb: !!python/object/apply:os.system [ls]\n",
        "f.yaml:2:4: b: tag 'tag:yaml.org,2002:python/ob",
    ),
    "a string tag": ("a: !!str 1\n", "f.yaml:1:4: a: tag"),
    "a local tag": ("!spec\na: 1\n", "f.yaml:1:1: tag '!spec' is not allowed"),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document starts here"),
    "a directive": ("%YAML 1.1\n---\na: on\n", "f.yaml:1:1: directives (lines that start with %)"),
    "a tag directive": ("%TAG ! tag:example.com,2000:\n---\na: 1\n", "f.yaml:1:1: directives"),
    "a merge key": ("a: 1\n<<: {b: 2}\n", "f.yaml:2:1: merge keys (<<) are not allowed"),
    "an oversized file": (b"#" * (MAX_BYTES + 1), "f.yaml is larger than 256 KiB"),
    "too many values": ("a: [" + "1," * 100_000 + "]", "f.yaml:1:19999: a: more than 10000 values"),
    "a very long text": (
        "a: 1\nb: " + "x" * 200_000,
        "f.yaml:2:4: b: a text of 200000 characters; 4096 are the most",
    ),
    "a very long key": ("? " + "x" * 5000 + "\n: 1", "f.yaml:1:3: a text of 5000 characters"),
    "a very long integer": ("a: " + "9" * 4000, "is an integer of more than 64 bits"),
    "a NUL byte": (b"a: 1\nb: x\x00y\n", "f.yaml:2:5: control character U+0000 is not allowed"),
    "an ANSI escape": ("a: \x1b[31mred", "f.yaml:1:4: control character U+001B"),
    "an escaped ANSI escape": (
        'a: "\\e[31m"',
        "f.yaml:1:4: a: control characters are not allowed, also not as escapes",
    ),
    "a directional override": ("a: \u202egpj", "U+202E"),
    "a byte order mark inside": ("a: x\ufeffy", "U+FEFF"),
    "bytes that are not UTF-8": (b"a: 1\nbc: \xff\n", "f.yaml:2:5: byte 0xff is not UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "f.yaml:1:1: byte 0xff is not UTF-8"),
    "not a number": ("a: .nan", "f.yaml:1:4: a: '.nan' is a number that is not finite"),
    "infinity": ("a: [1, -.inf]", "f.yaml:1:8: a: '-.inf' is a number that is not finite"),
    "an overflowing number": ("a: 1e999", "is a number that is not finite"),
    "a key that is a number": ("1: a\n", "f.yaml:1:1: key 1 is not a string; put it in quotes"),
    "a key that is null": ("~: a\n", "key None is not a string"),
    "an unclosed bracket": ("a: [1,\n", "f.yaml:2:1: a: "),
    "a tab as indentation": ("a:\n\tb: 1\n", "f.yaml:2:1: "),
    "an undefined escape": ('a: "\\q"', "f.yaml:1:"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_place_in_little_memory(name: str) -> None:
    data, expected = HOSTILE[name]
    assert expected in str(refusal(data))


def test_every_problem_of_a_file_is_reported_at_once() -> None:
    error = refusal("a: &x 1\na: !t 2\nb: .inf\nc: *x\n")
    assert [problem.split(": ")[0] for problem in error.problems] == [
        "f.yaml:1:4",
        "f.yaml:2:1",
        "f.yaml:2:4",
        "f.yaml:3:4",
        "f.yaml:4:4",
    ]


def test_a_flood_of_problems_is_cut_short() -> None:
    error = refusal("".join("a: 1\n" for _ in range(5000)))
    assert len(error.problems) == 21
    assert "reading stopped" in error.problems[-1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-0.25", -0.25),
        ("017", 17),
        ("+3", 3),
        ("0o17", 15),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("0b11", "0b11"),
        ("e5", "e5"),
        ("\u0661", "\u0661"),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}".encode(), "f.yaml").plain()
    assert read == {"a": value}
    assert type(read["a"]) is type(value)


def test_quoted_scalars_are_always_texts() -> None:
    assert plain("""{a: "1", b: 'true', c: "", 'null': "\\u00e9\\n"}""") == {
        "a": "1",
        "b": "true",
        "c": "",
        "null": "é\n",
    }


def test_a_byte_order_mark_at_the_start_is_skipped() -> None:
    assert parse_yaml("\ufeffa: 1".encode(), "f.yaml").plain() == {"a": 1}


def test_an_empty_file_is_null() -> None:
    assert plain("") is None
    assert plain("# a comment\n") is None


def test_thirty_two_levels_are_allowed() -> None:
    assert plain("a: " + "[" * 31 + "]" * 31) is not None
    assert "deep" in str(refusal("a: " + "[" * 32 + "]" * 32))


def test_nodes_know_the_places_of_keys_and_values() -> None:
    root = parse_yaml(b"a:\n  b: [1,\n      2]\n", "f.yaml")
    assert isinstance(root.value, dict)
    outer = root.value["a"].value
    assert isinstance(outer, dict)
    inner = outer["b"]
    assert isinstance(inner.value, tuple)
    assert str(inner.key_place) == "f.yaml:2:3"
    assert str(inner.place) == "f.yaml:2:6"
    assert [str(node.place) for node in inner.value] == ["f.yaml:2:7", "f.yaml:3:7"]


def test_a_file_that_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(SpecError, match="is not a file"):
            read_yaml(path)
    with pytest.raises(NotFoundError):
        read_yaml(tmp_path / "none.yaml")


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as stream:
        stream.truncate(10 * 2**30)
    with bounded_memory(), pytest.raises(SpecError, match="larger than 256 KiB"):
        read_yaml(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: "a: [" + "{b: 1}," * 37_000 + "]",
        lambda: "\n".join(f"k{n}: {n}" for n in range(20_000)),
        lambda: 'a: "' + "\\x41" * 65_000 + '"',
        lambda: "a: |\n" + " x\n" * 80_000,
        lambda: "#\n" * 130_000,
        lambda: ": " * 130_000,
        lambda: "&a " * 80_000,
        lambda: "!a " * 80_000,
        lambda: "'" * 250_000,
        lambda: "".join(f"%TAG !{n}! b\n" for n in range(16_000)),
        lambda: "a,{[" * 60_000,
    ],
    ids=[
        "mappings",
        "keys",
        "escapes",
        "block text",
        "comments",
        "colons",
        "anchors",
        "tags",
        "quotes",
        "directives",
        "mixed",
    ],
)
def test_a_quarter_megabyte_of_anything_takes_little_time_and_memory(make: Callable[[], str]) -> None:
    data = make().encode()[:MAX_BYTES]
    started = time.process_time()
    with bounded_memory():
        message = message_for(data)
    assert len(message) < 20_000
    assert time.process_time() - started < 5.0


@given(
    st.binary(max_size=300) | st.text(alphabet="ab1:-?[]{},&*!|>'\"%@#\n\t <~.", max_size=200).map(str.encode)
)
def test_any_bytes_are_read_or_refused_with_our_own_error(data: bytes) -> None:
    assert message_for(data).partition(" ")[0] in ("", "f.yaml")


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_that_python_writes_are_read_back(number: float) -> None:
    read = resolve_scalar(repr(number))
    assert read == number
    assert type(read) is type(number)
