"""Whether the weights that a part computes with are those of the file that it was loaded from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Suspicion
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import stored_tensors

TOLERANCE = 0.02
"""Relative; beyond what a conversion to any floating-point type does."""
UNRELATED = 0.3
"""Cosine between a tensor and its file below which one tells nothing of the other."""
STRENGTH = 0.97


@dataclass(frozen=True, slots=True)
class Parting:
    """Tensors of a part beside those of its file.

    Attributes:
        compared: How many.
        different: Names of those that differ.
        matrices: How many of those have two dimensions or more.
        unrelated: Names of weight tensors among them that have nothing in common with the file.
        share: Share of the values that lie in tensors that differ.
        worst: Largest relative difference.
    """

    compared: int
    different: tuple[str, ...]
    matrices: int
    unrelated: tuple[str, ...]
    share: float
    worst: float


@torch.inference_mode()
def parting(subject: Subject, kind: Kind) -> Parting | None:
    """Compare a part with its checkpoint; None where it has none on this disk, or none that fits."""
    folder = getattr(getattr(subject.pipe.spec, kind), "checkpoint", None)
    if folder is None or str(folder).startswith("hf://"):
        return None
    part = getattr(subject.pipe, kind)
    variant = getattr(getattr(subject.pipe.spec, kind), "variant", None)
    try:
        stored = stored_tensors(part, Path(folder), variant=variant)
    except (LdmError, OSError):
        return None
    here = part.state_dict()
    names = [name for name in stored if name in here and here[name].is_floating_point()]
    differences = {name: relative_difference(here[name], stored[name]) for name in names}
    different = tuple(name for name in names if not differences[name] <= TOLERANCE)
    values = sum(here[name].numel() for name in names)
    return Parting(
        len(names),
        different,
        sum(here[name].ndim > 1 for name in different),
        tuple(
            name
            for name in different
            if here[name].ndim > 1 and _cosine(here[name], stored[name]) < UNRELATED
        ),
        sum(here[name].numel() for name in different) / max(values, 1),
        max(differences.values(), default=0.0),
    )


def weight_suspicions(subject: Subject, kind: Kind) -> Iterator[Suspicion]:
    """What speaks against the weights of a part, if they are not those of its file."""
    found = parting(subject, kind)
    if found is None or not found.different:
        return
    stages = frozenset({kind})
    if len(found.unrelated) > 1 and 2 * len(found.unrelated) >= found.matrices:
        text = (
            f"{len(found.different)} of {found.compared} tensors are not those of the file and {len(found.unrelated)} "
            f"have nothing in common with it, the first is {found.unrelated[0]}"
        )
        yield Suspicion(stages, "weights were never loaded: they are random", STRENGTH, text)
        return
    text = (
        f"{len(found.different)} of {found.compared} tensors, the first is {found.different[0]}, differ by up to "
        f"{found.worst:.2g} (relative) from the file that they were loaded from"
    )
    yield Suspicion(stages, "weights are altered or corrupt", STRENGTH, text)


def relative_difference(here: Tensor, stored: Tensor) -> float:
    """RMS difference over the RMS of the stored tensor; infinite where it is no number."""
    one, other = here.float().cpu(), stored.float().cpu()
    if torch.equal(one, other):
        return 0.0
    scale = float(other.square().mean().sqrt()) or 1.0
    value = float((one - other).square().mean().sqrt()) / scale
    return value if math.isfinite(value) else math.inf


def _cosine(here: Tensor, stored: Tensor) -> float:
    one, other = here.float().flatten().cpu(), stored.float().flatten().cpu()
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0).nan_to_num())
