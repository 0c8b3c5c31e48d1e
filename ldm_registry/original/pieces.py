"""The table of a component: which tensor of diffusers is which part of which stored tensor.

A table is made from a plan of the network, never by rewriting the names that a file happens to have. So comparing it
with the file finds every missing, unknown and misshapen tensor, and a hostile name is only ever a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ldm_registry.errors import CheckpointError
from ldm_registry.safetensors_header import BITS, TensorEntry

WEIGHT_TYPES = ("F64", "F32", "F16", "BF16")
Shape = tuple[int, ...]
Section = Mapping[str, TensorEntry]
"""The tensors of one component, by their names after its prefix."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a component folder.

    Attributes:
        target: Its name there.
        shape: Its shape there.
        source: Name of the stored tensor that it comes from.
        stored: Shapes that the stored tensor may have.
        start: Its first row in the stored tensor, where that holds several tensors.
        interleaved: (heads, index): the stored rows are [head, (query, key, value), channel], and this is the one of
            that index.
        transposed: Whether the stored matrix is multiplied from the other side.
    """

    target: str
    shape: Shape
    source: str
    stored: tuple[Shape, ...]
    start: int | None = None
    interleaved: tuple[int, int] | None = None
    transposed: bool = False


def whole(target: str, source: str, shape: Shape) -> Piece:
    """A tensor that is stored as it is."""
    return Piece(target, shape, source, (shape,))


def layer(target: str, source: str, shape: Shape, *, bias: bool = True) -> list[Piece]:
    """Weight and bias of a linear layer, a convolution or a normalisation.

    Args:
        target: Name of the layer in the folder.
        source: Its name in the file.
        shape: Of the weight; outputs come first.
        bias: Whether there is one.
    """
    pieces = [whole(f"{target}.weight", f"{source}.weight", shape)]
    return [*pieces, whole(f"{target}.bias", f"{source}.bias", shape[:1])] if bias else pieces


def convolution(target: str, source: str, outputs: int, inputs: int, kernel: int = 3) -> list[Piece]:
    """Weight and bias of a convolution with a square kernel."""
    return layer(target, source, (outputs, inputs, kernel, kernel))


def pointwise(target: str, source: str, channels: int) -> list[Piece]:
    """A linear layer that was stored as a 1x1 convolution, over one dimension or two, or as what it is."""
    square = (channels, channels)
    stored = ((*square, 1, 1), (*square, 1), square)
    return [
        Piece(f"{target}.weight", square, f"{source}.weight", stored),
        whole(f"{target}.bias", f"{source}.bias", (channels,)),
    ]


def fused(targets: Iterable[str], weight: str, bias: str, width: int) -> list[Piece]:
    """Square linear layers that are stored as one, one below the other.

    Args:
        targets: Names of the layers in the folder, in the order of their rows.
        weight: Name of the stored weight.
        bias: Name of the stored bias.
        width: Inputs and outputs of each.
    """
    names = tuple(targets)
    rows = len(names) * width
    pieces = []
    for index, name in enumerate(names):
        start = index * width
        pieces.append(Piece(f"{name}.weight", (width, width), weight, ((rows, width),), start))
        pieces.append(Piece(f"{name}.bias", (width,), bias, ((rows,),), start))
    return pieces


def section(header: Mapping[str, TensorEntry], prefix: str) -> dict[str, TensorEntry]:
    """The tensors under a prefix, by their names after it."""
    return {name[len(prefix) :]: entry for name, entry in header.items() if name.startswith(prefix)}


def under(pieces: Iterable[Piece], prefix: str) -> list[Piece]:
    """The same pieces, with the full names of their sources."""
    return [replace(piece, source=prefix + piece.source) for piece in pieces]


def shape_of(names: Section, name: str, dimensions: int) -> Shape:
    """The shape of a tensor from which a size of the network is read.

    Raises:
        CheckpointError: It is missing, has another number of dimensions, or is empty.
    """
    if name not in names:
        raise CheckpointError(
            "the file does not hold a whole component",
            [f"missing: {name}, from which the network's sizes are read"],
        )
    shape = names[name].shape
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(
            "the file holds a tensor of an impossible shape",
            [f"wrong shape: {name} is {list(shape)}, expected {dimensions} dimensions, none of them 0"],
        )
    return shape


def count(names: Section, pattern: str, most: int = 128) -> int:
    """How many consecutive numbers, from 0, stand at the place `{}` in the names' beginnings.

    Args:
        names: The section.
        pattern: Such as `transformer.resblocks.{}.`.
        most: Above this the file is refused.

    Raises:
        CheckpointError: There are more.
    """
    before, after = pattern.split("{}")
    expression = re.compile(re.escape(before) + r"(0|[1-9][0-9]{0,3})" + re.escape(after))
    found = {int(match[1]) for name in names if (match := expression.match(name))}
    number = next(index for index in range(len(found) + 1) if index not in found)
    if number > most:
        raise CheckpointError(
            f"the file numbers {pattern.format('N')}... up to {number - 1}; {most} are the most"
        )
    return number


def problems_of(pieces: Iterable[Piece], header: Mapping[str, TensorEntry]) -> list[str]:
    """What keeps a file from filling a table: one line for each missing, misshapen or mistyped tensor."""
    problems = []
    for source, shapes in {piece.source: piece.stored for piece in pieces}.items():
        entry = header.get(source)
        expected = " or ".join(str(list(shape)) for shape in shapes)
        if entry is None:
            problems.append(f"missing: {source} {expected}")
        elif entry.shape not in shapes:
            problems.append(f"wrong shape: {source} is {list(entry.shape)}, expected {expected}")
        elif entry.dtype not in WEIGHT_TYPES:
            problems.append(f"wrong type: {source} is {entry.dtype}, expected {', '.join(WEIGHT_TYPES)}")
    return problems


def size_of(piece: Piece, header: Mapping[str, TensorEntry]) -> int:
    """Bytes of a piece in the folder."""
    return math.prod(piece.shape) * BITS[header[piece.source].dtype] // 8
