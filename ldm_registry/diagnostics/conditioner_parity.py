"""Whether two pipelines make the same of one text, and if not, which of their conditioners does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from ldm_registry.diagnostics.agreement import Match
from ldm_registry.diagnostics.parity import Parity, judged
from ldm_registry.diagnostics.part_pair import PartPair, looked_into
from ldm_registry.interfaces import Conditioner
from ldm_registry.pipeline import Pipeline
from ldm_registry.vocabulary import Kind


def conditioner_gaps(one: Pipeline, other: Pipeline, count: int) -> Iterator[str]:
    """A sentence for each conditioner that gives something else for the same texts, by more than rounding.

    Args:
        one: Its texts are used: those of its condition, and what stands for none.
        other: Compared with it, label by label.
        count: How many of the texts, at most.
    """
    for label in sorted({*one.conditioners, *other.conditioners}):
        mine, yours = one.conditioners.get(label), other.conditioners.get(label)
        if mine is None or yours is None:
            yield f"only the {'second' if mine is None else 'first'} has a conditioner {label}"
        elif mine is not yours:
            yield from _gaps(label, mine, yours, one, count)


def _gaps(label: str, mine: Conditioner, yours: Conditioner, pipe: Pipeline, count: int) -> Iterator[str]:
    condition, image = pipe.spec.condition, pipe.spec.image
    texts = {name: [*map(str, condition.get(name, ()))][:count] for name in mine.inputs}
    most = max(map(len, texts.values()), default=0)
    texts = {name: [*given, *[""] * (most + 1 - len(given))] for name, given in texts.items()}
    size = (image.height, image.width)
    pair = PartPair.of(mine, yours, ())
    try:
        expected, got = mine.encode(texts, size), yours.encode(texts, size)
    except Exception as error:  # a conditioner that cannot read the texts is a finding, not a crash
        yield f"conditioner {label} cannot read the first one's texts: {type(error).__name__}: {error}"
        return
    for name in expected:
        if name not in got:
            yield f"conditioner {label} does not give {name}"
            continue
        found = _judged(expected[name], got[name], pair)
        if found.match is Match.DIFFERENT:
            found = looked_into(found, pair, lambda: mine.encode(texts, size))
            yield _sentence(label, name, found)


def _judged(expected: Tensor, got: Tensor, pair: PartPair) -> Parity:
    found = judged(Kind.DENOISER, expected, got, pair.tolerance, pair.precision)
    return replace(found, match=Match.DIFFERENT) if pair.tensors else found


def _sentence(label: str, name: str, found: Parity) -> str:
    said = f"conditioner {label} gives another {name} for the same texts (by {found.relative_error:.2g})"
    if found.module is not None:
        said += f", first in module {found.module} ({found.module_kind})"
    elif not found.tensors and found.modules[1]:
        said += ", though its network answers the same: the tokens differ"
    if found.tensors:
        said += f"; tensor {found.tensors[0].name}: {found.tensors[0].how}"
    return said
