"""Whether two results are one: bit by bit, up to rounding, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from ldm_registry.pipeline import placement

ROUNDINGS = 2.0
"""Spacings that one operation may err by, root mean square against root mean square; most stay below a half."""
NUDGE = 16.0
"""Spacings by which an input is moved to see what becomes of it."""
TF32_EPS = 2.0**-10


class Match(StrEnum):
    """How far two parts do the same."""

    EQUAL = "bit-equal"
    ROUNDING = "rounding"
    DIFFERENT = "different"
    UNKNOWN = "not compared"


@dataclass(frozen=True, slots=True)
class Precision:
    """How finely two parts compute that are compared.

    Attributes:
        eps: Spacing of the coarser of the two floating-point types at 1.
        name: Of the coarser type, such as `float16`.
    """

    eps: float
    name: str

    def tolerance(self, operations: int) -> float:
        """The relative error that rounding alone explains; errors of operations add up like a random walk.

        Args:
            operations: How many follow one another, at least 1.
        """
        return ROUNDINGS * self.eps * math.sqrt(max(operations, 1))

    def exact(self) -> Precision:
        """The same type without an allowance, for parts whose weights or settings are known to differ."""
        return Precision(0.0, self.name)


def precision_of(one: nn.Module, other: nn.Module) -> Precision:
    """The coarser precision of two parts; on CUDA, float32 counts as TF32 where torch may use that."""
    found = [_precision(*placement(part)) for part in (one, other)]
    return max(found, key=lambda precision: precision.eps)


def _precision(device: torch.device, dtype: torch.dtype) -> Precision:
    name = str(dtype).removeprefix("torch.")
    allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    if device.type == "cuda" and dtype is torch.float32 and allowed:
        return Precision(TF32_EPS, "TF32")
    return Precision(torch.finfo(dtype).eps, name)


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Bit by bit, NaN where the other is; dtype and device aside."""
    if one.shape != other.shape:
        return False
    mine, yours = one.detach().to("cpu", torch.float64), other.detach().to("cpu", torch.float64)
    return bool(((mine == yours) | (mine.isnan() & yours.isnan())).all())


def relative_error(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference over that of the first; infinite where shapes or finiteness differ.

    Args:
        one: Any shape.
        other: The same.
    """
    if one.shape != other.shape:
        return math.inf
    mine, yours = one.detach().to("cpu", torch.float64), other.detach().to("cpu", torch.float64)
    if not torch.equal(mine.isfinite(), yours.isfinite()):
        return math.inf
    finite = mine.isfinite()
    mine, yours = mine[finite], yours[finite]
    if mine.numel() == 0:
        return 0.0
    gap, size = float((mine - yours).square().mean()), float(mine.square().mean())
    if gap == 0.0:
        return 0.0
    return math.sqrt(gap / size) if size > 0.0 else math.inf


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every floating-point tensor in an answer of a module: in tuples, mappings and data classes too."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def amplification(run: Callable[[Tensor], Tensor], given: Tensor, eps: float) -> float:
    """By how much a part enlarges a relative error of its input, at least 1: what is steep there enlarges rounding.

    Args:
        run: The part.
        given: Any shape.
        eps: Spacing of its type at 1.
    """
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).to(given)
    size = given.float().square().mean().sqrt()
    moved = given + (NUDGE * eps * size).to(given) * noise
    return max(1.0, relative_error(run(given), run(moved)) / (NUDGE * eps))


def matched(error: float, equal: bool, tolerance: float) -> Match:
    """What a relative error means against what rounding explains."""
    if equal:
        return Match.EQUAL
    return Match.ROUNDING if error <= tolerance else Match.DIFFERENT
