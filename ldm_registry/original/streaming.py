"""Write a safetensors file tensor by tensor: the header first, then each tensor's bytes as they are read.

So a component of any size is written with one of its tensors in memory at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, uint8

from ldm_registry.errors import CheckpointError
from ldm_registry.original.pieces import Piece, size_of
from ldm_registry.safetensors_header import BITS, TensorEntry

MAX_MAPPED_BYTES = 256 * 2**20
"""After so many bytes the source is mapped anew, so that pages that were read do not count as memory in use."""


def write_pieces(
    source: Path, header: Mapping[str, TensorEntry], pieces: Sequence[Piece], path: Path
) -> None:
    """Write the tensors of a table, under a temporary name until all are there.

    Args:
        source: The file that holds them.
        header: Of that file, checked.
        pieces: What to write; every source exists and has one of its allowed shapes.
        path: The file to make.

    Raises:
        CheckpointError: The source cannot be read, or changed meanwhile.
    """
    # The widest types first, as the library itself does, so that every tensor is aligned to its type.
    ordered = sorted(pieces, key=lambda piece: (-BITS[header[piece.source].dtype], piece.target))
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            _write(file.fileno(), memoryview(_header_bytes(ordered, header)))
            for group in _groups(ordered, header):
                with safe_open(source, framework="pt", device="cpu") as stored:
                    for piece in group:
                        tensor = taken(piece, stored.get_tensor(piece.source))
                        _write(file.fileno(), tensor.reshape(-1).view(uint8).numpy().data)
        os.replace(partial, path)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{source} cannot be read", [str(error)]) from error
    finally:
        partial.unlink(missing_ok=True)


def taken(piece: Piece, stored: Tensor) -> Tensor:
    """The part of a stored tensor that a piece is, contiguous.

    Args:
        piece: Which part.
        stored: Of one of the shapes that the piece allows.
    """
    if piece.interleaved is not None:
        heads, index = piece.interleaved
        part = stored.reshape(heads, 3, -1, *piece.shape[1:])[:, index]
    elif piece.start is not None:
        part = stored[piece.start : piece.start + piece.shape[0]]
    else:
        part = stored.T if piece.transposed else stored
    return part.reshape(piece.shape).contiguous()


def _write(descriptor: int, data: memoryview) -> None:
    # One call of the system writes at most 2 GiB.
    while data.nbytes:
        data = data[os.write(descriptor, data) :]


def _header_bytes(pieces: Sequence[Piece], header: Mapping[str, TensorEntry]) -> bytes:
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for piece in pieces:
        end = position + size_of(piece, header)
        described[piece.target] = {
            "dtype": header[piece.source].dtype,
            "shape": piece.shape,
            "data_offsets": (position, end),
        }
        position = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _groups(pieces: Sequence[Piece], header: Mapping[str, TensorEntry]) -> list[list[Piece]]:
    groups: list[list[Piece]] = [[]]
    mapped = 0
    for piece in pieces:
        size = size_of(piece, header)
        if groups[-1] and mapped + size > MAX_MAPPED_BYTES:
            groups.append([])
            mapped = 0
        groups[-1].append(piece)
        mapped += size
    return groups
