"""Which stored tensor fills which tensor of a component: today's names, the names of older versions, the rest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm_registry.interfaces import Component
from ldm_registry.safetensors_header import TensorEntry

FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, slots=True)
class Match:
    """What a file and a component have in common.

    Attributes:
        sources: The stored tensor for each tensor of the component.
        problems: Why they do not match, in the names of the file, sorted; empty where they do.
    """

    sources: Mapping[str, TensorEntry]
    problems: tuple[str, ...]


def match_names(
    component: Component, expected: Mapping[str, Tensor], stored: Mapping[str, TensorEntry]
) -> Match:
    """Find the stored tensor for each tensor of a component.

    Args:
        component: Says which names are old, which are its sibling's and which hold nothing.
        expected: Its state dict.
        stored: What the files hold.
    """
    found: dict[str, list[str]] = defaultdict(list)
    problems = []
    for name, entry in stored.items():
        target = name if name in expected else _renamed(component, name, expected)
        if target is None:
            continue
        if target in expected:
            found[target].append(name)
        else:
            problems.append(f"unexpected: {name} {list(entry.shape)}")
    for name, tensor in expected.items():
        names = found[name]
        if not names:
            problems.append(f"missing: {name} {list(tensor.shape)}")
        elif len(names) > 1:
            problems.append(f"twice: {' and '.join(sorted(names))} both are {name}")
        else:
            problems += _misfits(name, tensor, names[0], stored[names[0]])
    sources = {name: stored[names[0]] for name, names in found.items() if names}
    return Match(sources, tuple(sorted(problems)))


def _renamed(component: Component, name: str, expected: Mapping[str, Tensor]) -> str | None:
    """The name that a stored name became; None where the tensor is the sibling's or holds nothing."""
    if _passed_over(component, name):
        return None
    today = name
    for pattern, replacement in component.renamed_tensors:
        today = re.sub(pattern, replacement, today)
        if today in expected:
            return today
    # The sibling's old names are the sibling's too.
    return None if today != name and _passed_over(component, today) else name


def _passed_over(component: Component, name: str) -> bool:
    return name.startswith(component.sibling_prefixes) or any(
        re.fullmatch(pattern, name) for pattern in component.ignored_tensors
    )


def _misfits(name: str, tensor: Tensor, stored_name: str, entry: TensorEntry) -> list[str]:
    problems = []
    shape = tuple(tensor.shape)
    renamed = f" ({name})" if name != stored_name else ""
    # What is a linear layer today was a 1x1 convolution under its old name.
    fits = entry.shape == shape or (renamed and len(shape) == 2 and entry.shape == (*shape, 1, 1))
    if not fits:
        problems.append(f"wrong shape: {stored_name}{renamed} is {list(entry.shape)}, expected {list(shape)}")
    if tensor.is_floating_point() != (entry.dtype in FLOATING):
        problems.append(f"wrong type: {stored_name}{renamed} is {entry.dtype}, expected {tensor.dtype}")
    return problems
