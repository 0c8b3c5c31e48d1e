"""Two parts and what is known of them before they run; which module and which weights make them differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from ldm_registry.diagnostics.agreement import Match, Precision, precision_of
from ldm_registry.diagnostics.differing import TensorGap, differing_tensors
from ldm_registry.diagnostics.module_walk import ModuleGap, Twin, twin_of, walk
from ldm_registry.diagnostics.parity import Parity
from ldm_registry.pipeline import placement


@dataclass(frozen=True, slots=True)
class PartPair:
    """Two parts, with what is known of them before they run.

    Attributes:
        one: The first.
        other: The second.
        twin: Their networks, where these are of one class.
        tensors: Weights that differ.
        precision: What is allowed to rounding. Nothing is where both compute in one type and on one device, and
            weights or settings are known to differ: then whatever differs in the answer comes from there.
    """

    one: nn.Module
    other: nn.Module
    twin: Twin | None
    tensors: tuple[TensorGap, ...]
    precision: Precision

    @classmethod
    def of(cls, one: nn.Module, other: nn.Module, settings: Sequence[str]) -> Self:
        """Compare two parts without running them; `settings` are those that are known to differ."""
        precision, twin = precision_of(one, other), twin_of(one, other)
        tensors: tuple[TensorGap, ...] = ()
        if twin is not None and twin.one is not twin.other:
            tensors = differing_tensors(twin.one, twin.other, precision, twin.prefixes[0])
        if (tensors or settings) and placement(one) == placement(other):
            precision = precision.exact()
        return cls(one, other, twin, tensors, precision)

    @property
    def tolerance(self) -> float:
        """The relative error of the whole that rounding explains."""
        return self.precision.tolerance(_depth(self.one))


def looked_into(found: Parity, pair: PartPair, run: Callable[[], object]) -> Parity:
    """With the weights that differ, and the module, where the answers do.

    A part whose weights differ by more than rounding is not the same up to rounding, however little comes of it.
    """
    if pair.tensors and found.match is Match.ROUNDING:
        found = replace(found, match=Match.DIFFERENT)
    found, twin = replace(found, tensors=pair.tensors), pair.twin
    if found.match is not Match.DIFFERENT:
        return found
    if twin is None:
        classes = f"{type(pair.one).__name__} and {type(pair.other).__name__}"
        return replace(found, notes=(*found.notes, f"other classes, so no modules to compare: {classes}"))
    walked = walk(twin.one, twin.other, run, pair.precision)
    compared = len(walked.gaps)
    if not walked.culprits:
        whole = any(gap.name == "" for gap in walked.gaps)
        note = "every module answers as its twin does: the difference is in what the part does around them"
        if whole:
            note = "the network answers as its twin does: guidance differs, or how the answer is read"
        return replace(found, modules=(0, compared), notes=(*found.notes, note) if compared else found.notes)
    first = walked.culprits[0]
    return _named(found, first, len(walked.culprits), compared, twin.prefixes[0])


def _named(found: Parity, first: ModuleGap, count: int, compared: int, prefix: str) -> Parity:
    name = f"{prefix}{first.name}".rstrip(".")
    own = [tensor for tensor in found.tensors if name and tensor.name.startswith(f"{name}.")]
    tensors = (*own, *(tensor for tensor in found.tensors if tensor not in own))
    return replace(
        found,
        module=name or "(its own code)",
        module_kind=first.kind,
        module_error=first.relative_error,
        modules=(count, compared),
        tensors=tensors,
    )


def _depth(part: nn.Module) -> int:
    """How many operations follow one another at most: the modules that have none inside."""
    return sum(1 for module in part.modules() if next(module.children(), None) is None)
