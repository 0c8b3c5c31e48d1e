"""What an unquoted word of YAML means: the core schema of YAML 1.2, and nothing that a terminal would obey.

Section 10.3.2 of the specification of YAML 1.2, not PyYAML's YAML 1.1: `1e-4` is a number, `no` and `on` are
strings, `017` is 17. Imports no torch.
"""

from __future__ import annotations

import math
import re

MAX_SCALAR = 4096
"""Characters of one key or value."""

Scalar = str | int | float | bool | None

# C0 but for tab and line breaks, DEL, C1, the Unicode line separators, directional overrides, surrogates, BOM.
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def has_control_characters(text: str) -> bool:
    """Whether a text holds a character that has no business in a name, a path or a terminal."""
    return CONTROL.search(text) is not None or "\r" in text


def resolve_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar under the core schema of YAML 1.2.

    Args:
        text: As it stands in the file.

    Raises:
        ValueError: It is a number that is not finite, or an integer of more than 64 bits.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # Python's int() itself fails on more than 4300 digits; nobody writes 64 bits with 99 characters.
        value = int(text, base) if len(text) < 99 else 2**63
        if not -(2**63) <= value < 2**63:
            raise ValueError("an integer of more than 64 bits")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("a number that is not finite")
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("a number that is not finite")
        return number
    return text
