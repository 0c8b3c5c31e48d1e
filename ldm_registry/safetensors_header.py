"""Read and check the header of a safetensors file before anything is mapped into memory.

The format: 8 bytes little-endian header length n, n bytes of JSON `{name: {dtype, shape, data_offsets}}`, then
the data. The limits keep a hostile file from taking memory: the library itself accepts half a million tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
MAX_METADATA_BYTES = 64 * 2**10
NAME = re.compile(r"[\w.\-/]{1,256}", re.ASCII)
BITS = {
    **{name: 64 for name in ("F64", "I64", "U64")},
    **{name: 32 for name in ("F32", "I32", "U32")},
    **{name: 16 for name in ("F16", "BF16", "I16", "U16")},
    **{name: 8 for name in ("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")},
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file, as its header describes it.

    Attributes:
        file: Where it is stored.
        dtype: safetensors' name of the type, `F16` for example.
        shape: Its shape.
        offset: Of its first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, checked against the size of the file.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is truncated, oversized, malformed, or names a tensor in a way that is not allowed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise _broken(
                path,
                f"the header should be {length} bytes long, the file has {max(size - 8, 0)} after its first 8",
            )
        if length > MAX_HEADER_BYTES:
            raise _broken(path, f"the header is {length} bytes long; at most {MAX_HEADER_BYTES} are allowed")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise _broken(path, "the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if len(json.dumps(metadata)) > MAX_METADATA_BYTES:
        raise _broken(path, f"__metadata__ is longer than {MAX_METADATA_BYTES} bytes")
    if len(header) > MAX_TENSORS:
        raise _broken(path, f"{len(header)} tensors; at most {MAX_TENSORS} are allowed")
    return _entries(path, header, data_begin=8 + length, data_bytes=size - 8 - length)


def _entries(
    path: Path, header: Mapping[str, Any], data_begin: int, data_bytes: int
) -> dict[str, TensorEntry]:
    entries, spans = {}, []
    for name, described in header.items():
        if not NAME.fullmatch(name):
            raise _broken(
                path, f"tensor name {ascii(name)[:80]} has characters that are not allowed, or is too long"
            )
        try:
            dtype, shape = described["dtype"], tuple(described["shape"])
            begin, end = described["data_offsets"]
            sound = dtype in BITS and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise _broken(path, f"tensor {name}: malformed entry {ascii(described)[:120]}")
        expected = math.prod(shape) * BITS[dtype] // 8
        if end - begin != expected:
            raise _broken(
                path, f"tensor {name}: {end - begin} bytes of data, {dtype} {list(shape)} takes {expected}"
            )
        entries[name] = TensorEntry(path, dtype, shape, data_begin + begin)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _broken(path, f"the data has a gap or an overlap at byte {position}")
        position = end
    if position != data_bytes:
        raise _broken(path, f"the header describes {position} bytes of data, the file holds {data_bytes}")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key stands there twice")
    return unique


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path} was refused", [problem], hint="fetch or export the file again")
