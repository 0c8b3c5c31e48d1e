"""Walk two networks in step: which module is the first to answer otherwise than its twin to the same input?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ldm_registry.diagnostics.agreement import (
    Match,
    Precision,
    is_equal,
    matched,
    precision_of,
    relative_error,
    tensors_in,
)
from ldm_registry.pipeline import placement
from ldm_registry.taps import is_compiled


@dataclass(frozen=True, slots=True)
class ModuleGap:
    """A module that was given the same input in both networks.

    Attributes:
        name: Dotted; empty for the network itself.
        kind: Name of its class.
        relative_error: Of its answer, root mean square.
        match: What that means.
    """

    name: str
    kind: str
    relative_error: float
    match: Match


@dataclass(frozen=True, slots=True)
class Walk:
    """All modules that were called, innermost first, in order of their ends.

    Attributes:
        gaps: Each with the error of its own answer to its twin's input, so that errors do not travel.
        unmatched: Modules that have no twin of the same class, or whose twin could not be called so.
    """

    gaps: tuple[ModuleGap, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def culprits(self) -> tuple[ModuleGap, ...]:
        """Those that differ although nothing inside them does."""
        different = [gap for gap in self.gaps if gap.match is Match.DIFFERENT]
        return tuple(
            gap for gap in different if not any(_is_inside(other.name, gap.name) for other in different)
        )


@dataclass(frozen=True, slots=True)
class Twin:
    """Where the network of one component is found in the other.

    Attributes:
        one: The network in the first component.
        other: The network of the same class in the second.
        prefixes: What leads to the two, with its dot; empty where a component is the network itself.
    """

    one: nn.Module
    other: nn.Module
    prefixes: tuple[str, str] = ("", "")


def twin_of(one: nn.Module, other: nn.Module) -> Twin | None:
    """Two networks of one class in two components: these themselves, or one that the other has inside it."""
    if _are_alike(one, other):
        return Twin(one, other)
    for name, inner in other.named_modules():
        if _are_alike(one, inner):
            return Twin(one, inner, ("", f"{name}."))
    for name, inner in one.named_modules():
        if _are_alike(inner, other):
            return Twin(inner, other, (f"{name}.", ""))
    return None


def walk(
    one: nn.Module, other: nn.Module, run: Callable[[], object], precision: Precision | None = None
) -> Walk:
    """Run the first network, and hand the input of each of its modules to its twin in the second as well.

    Every module is compared by itself: what came before it is the first network's in both cases. Nothing is kept but
    one number for each, whatever the size of the activations.

    Args:
        one: Runs as a whole.
        other: Of the same class.
        run: Calls the first network; its modules are looked at the first time that they are called.
        precision: What is allowed to rounding; None takes the coarser of the two types.
    """
    twins = dict(other.named_modules())
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {}
    unmatched: list[str] = []
    for name, module in one.named_modules():
        twin = twins.get(name)
        if is_compiled(module) or twin is None or not _are_alike(module, twin):
            unmatched.append(name or type(module).__name__)
        elif twin is not module:
            pairs[name] = (module, twin)
    follower = _Follower(one, other, precision or precision_of(one, other))
    hooks = []
    for name, (module, twin) in pairs.items():
        hooks.append(module.register_forward_pre_hook(follower.before(name, twin), with_kwargs=True))
        hooks.append(module.register_forward_hook(follower.after(name, twin), with_kwargs=True))
        # A network may compute a module that nobody watches in another way: both are watched, so both do the same.
        hooks.append(twin.register_forward_hook(_watched))
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return Walk(tuple(follower.gaps.values()), (*unmatched, *follower.failed))


class _Follower:
    """Calls the twins while the first network runs."""

    def __init__(self, one: nn.Module, other: nn.Module, precision: Precision) -> None:
        self.gaps: dict[str, ModuleGap] = {}
        self.failed: list[str] = []
        self._answers: dict[str, object] = {}
        self._begun: set[str] = set()
        self._is_inside = False
        self._precision = precision
        self._from, self._to = placement(one), placement(other)

    def before(self, name: str, twin: nn.Module) -> Callable[..., None]:
        def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_inside or name in self._begun:
                return
            self._begun.add(name)
            self._is_inside = True
            try:
                answer = twin(*self._carried(args), **self._carried(kwargs))
                self._answers[name] = answer
            except Exception:  # a twin that cannot be called so is named, whatever the reason
                self.failed.append(name)
            finally:
                self._is_inside = False

        return call

    def after(self, name: str, twin: nn.Module) -> Callable[..., None]:
        def compare(module: nn.Module, args: Any, kwargs: Any, answer: object) -> None:
            if self._is_inside or name not in self._answers:
                return
            mine, yours = list(tensors_in(answer)), list(tensors_in(self._answers.pop(name)))
            error, equal = math.inf, False
            if len(mine) == len(yours):
                error = max(map(relative_error, mine, yours), default=0.0)
                equal = all(map(is_equal, mine, yours))
            leaves = sum(1 for inner in module.modules() if next(inner.children(), None) is None)
            match = matched(error, equal, self._precision.tolerance(leaves))
            self.gaps[name] = ModuleGap(name, type(module).__name__, error, match)

        return compare

    def _carried(self, value: Any) -> Any:
        """The same input in the twin's floating-point type, on its device; a copy, since modules may overwrite it."""
        if isinstance(value, Tensor):
            dtype = self._to[1] if value.dtype is self._from[1] else value.dtype
            return value.to(self._to[0], dtype, copy=True)
        if isinstance(value, dict):
            return {name: self._carried(part) for name, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._carried(part) for part in value))
        if isinstance(value, list | tuple):
            return type(value)(self._carried(part) for part in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{one.name: getattr(value, one.name) for one in fields(value)})
        return value


def _watched(module: nn.Module, args: object, answer: object) -> None:
    """Nothing more than somebody who is there."""


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    """Of one class, or one class made from the other by changing a method."""
    first, second = type(one), type(other)
    if first is second:
        return True
    is_derived = issubclass(first, second) or issubclass(second, first)
    return is_derived and first.__name__ == second.__name__ and first.__module__ == second.__module__


def _is_inside(name: str, outer: str) -> bool:
    return name != outer and (outer == "" or name.startswith(f"{outer}."))
