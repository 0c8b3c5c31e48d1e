"""LOAD: whether the weights are those of a trained network, and the files those of the contract."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.golden_output import GOLDEN_SAME, golden_distance
from ldm_registry.diagnostics.golden_outputs import differences
from ldm_registry.diagnostics.stored_weights import parting, weight_suspicions
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.digests import verify
from ldm_registry.errors import LdmError
from ldm_registry.vocabulary import STAGES, Kind

NETWORKS = (Kind.ENCODER, Kind.DENOISER, Kind.DECODER)
SMALLEST = 1024
"""Values below which a matrix tells too little."""
MOST_ROWS = 512
EDGE = 1.05
"""Largest singular value over the edge of the spectrum of independent values (Marchenko and Pastur 1967)."""
EXCESS = 6.0
RANDOM_SHARE = 0.3
"""In networks that were trained for a few minutes an eighth of the weights, small attention matrices, look so."""
SAME_OUTPUT = 0.01
"""Relative difference from a golden output up to which nothing is wrong with the weights."""
WHOLE_BLOCK = 4
"""Matrices that a block needs to be judged as a whole; of a trained block some always stand out."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The weights of one stage.

    Attributes:
        kind: Which.
        not_finite: Tensors with NaN or infinity.
        zero: Weight tensors of two dimensions or more that are zero throughout.
        random: Weight tensors that look like independent random values.
        random_share: Share of the judged values that they hold.
        blocks: Blocks all of whose matrices do.
        dead: Outputs of layers whose weights are all zero, as a share.
        judged: Tensors that were large enough.
    """

    kind: Kind
    not_finite: tuple[str, ...]
    zero: tuple[str, ...]
    random: tuple[str, ...]
    random_share: float
    blocks: tuple[str, ...]
    dead: float
    judged: int


def measure_load(subject: Subject) -> Measurement:
    """Look at every weight, and at every file against its contract."""
    begin = time.perf_counter()
    audits = [audit(kind, getattr(subject.pipe, kind)) for kind in NETWORKS]
    files = list(_files(subject))
    golden = golden_distance(subject)
    # A network that still puts out what was recorded, or has the very weights of the file that its contract vouches
    # for, has what it was saved with, whatever that looks like.
    intact = {Kind.DENOISER} if golden is not None and golden < GOLDEN_SAME else set()
    as_stored = {one.kind for one in audits if one.random and _is_as_stored(subject, one.kind)}
    if not files:
        intact |= {kind for kind in as_stored if _has_digests(subject, kind)}
    # A block that the training hardly touched comes out of the file as it is; one that was not loaded does not.
    audits = [replace(one, blocks=()) if one.kind in as_stored else one for one in audits]
    return Measurement(
        "LOAD",
        "Are the weights those of the checkpoint, and trained?",
        frozenset(STAGES),
        tuple(metric for one in audits for metric in _metrics(one, is_intact=one.kind in intact)),
        (
            *files,
            *(suspicion for one in audits for suspicion in _suspicions(one, is_intact=one.kind in intact)),
            *_parted(subject),
        ),
        seconds=time.perf_counter() - begin,
    )


def _is_as_stored(subject: Subject, kind: Kind) -> bool:
    """Whether the weights are those of the file that the part was loaded from."""
    found = parting(subject, kind)
    return found is not None and found.compared > 0 and not found.different


def _has_digests(subject: Subject, kind: Kind) -> bool:
    contract = subject.contract(kind)
    return contract is not None and bool(contract.files)


@torch.inference_mode()
def audit(kind: Kind, part: nn.Module) -> Audit:
    """Judge the weights of a part.

    Args:
        kind: What it is.
        part: The part.
    """
    not_finite, zero, random = list[str](), list[str](), list[str]()
    large = list[str]()
    values = untouched = rows = dead = 0
    for name, tensor in part.named_parameters():
        if not bool(tensor.isfinite().all()):
            not_finite.append(name)
            continue
        if tensor.ndim < 2:
            continue
        matrix = tensor.detach().float().flatten(1)
        rows += len(matrix)
        dead += int((matrix == 0).all(1).sum())
        if not bool(matrix.any()):
            zero.append(name)
        elif min(matrix.shape) >= 8 and matrix.numel() >= SMALLEST:
            large.append(name)
            values += matrix.numel()
            if looks_random(matrix):
                random.append(name)
                untouched += matrix.numel()
    return Audit(
        kind,
        tuple(not_finite),
        tuple(zero),
        tuple(random),
        untouched / max(values, 1),
        tuple(_whole_blocks(large, set(random))),
        dead / max(rows, 1),
        len(large),
    )


def _whole_blocks(large: list[str], random: set[str]) -> Iterator[str]:
    """Blocks, numbered parts of a network, whose matrices all look random."""
    for block, names in groupby(sorted(large, key=_block), key=_block):
        members = list(names)
        if block and len(members) >= WHOLE_BLOCK and random.issuperset(members):
            yield block


def _block(name: str) -> str:
    """The name up to its first number."""
    words = name.split(".")
    first = next((index for index, word in enumerate(words) if word.isdigit()), -1)
    return ".".join(words[: first + 1])


def looks_random(matrix: Tensor) -> bool:
    """Whether a matrix [M, N] could be independent values of one distribution, uniform or normal.

    Training leaves directions that stand out of the spectrum, rows and columns of different size, or heavier tails.
    """
    part = matrix[:MOST_ROWS, : 4 * MOST_ROWS].double()
    size, std, mean = part.numel(), float(part.std()), float(part.mean())
    if std == 0.0 or abs(mean) > EXCESS * std / math.sqrt(size):
        return False
    kurtosis = float(((part - mean) / std).pow(4).mean())
    if min(abs(kurtosis - 1.8), abs(kurtosis - 3.0)) > EXCESS * math.sqrt(24.0 / size):
        return False
    largest = float(torch.linalg.matrix_norm(part.float(), 2))
    if largest > EDGE * std * (math.sqrt(part.shape[0]) + math.sqrt(part.shape[1])):
        return False
    return all(_is_even(part.square().mean(axis) / std**2, part.shape[axis], kurtosis) for axis in (0, 1))


def _is_even(powers: Tensor, count: int, kurtosis: float) -> bool:
    """Whether mean squares over `count` independent values scatter no more than chance has it."""
    expected = math.sqrt(max(kurtosis - 1.0, 0.1) / count)
    if len(powers) < 2:
        return True
    return float(powers.std()) < expected * (1.0 + EXCESS / math.sqrt(2.0 * len(powers)))


def _files(subject: Subject) -> Iterator[Suspicion]:
    for kind, contract in subject.pipe.contracts.items():
        folder = getattr(getattr(subject.pipe.spec, kind), "checkpoint", None)
        if folder is None or str(folder).startswith("hf://"):
            continue
        try:
            verify(Path(folder), contract)
        except (LdmError, OSError) as error:
            yield Suspicion(frozenset({kind}), "files differ from the contract", 0.95, str(error))


def _parted(subject: Subject) -> Iterator[Suspicion]:
    """Parts whose weights are not those of their file, unless they put out what was recorded all the same."""
    for kind in NETWORKS:
        outputs = differences(subject, kind)
        if not outputs or max(value for _, value in outputs) > SAME_OUTPUT:
            yield from weight_suspicions(subject, kind)


def _metrics(one: Audit, *, is_intact: bool) -> Iterator[Metric]:
    none = Healthy(0.0, 0.0, "theory")
    yield Metric(
        f"{one.kind}_not_finite",
        float(len(one.not_finite)),
        f"tensors of the {one.kind} with NaN or infinity",
        none,
    )
    yield Metric(
        f"{one.kind}_zero", float(len(one.zero)), f"weight matrices of the {one.kind} that are zero", none
    )
    yield Metric(
        f"{one.kind}_random_share",
        one.random_share,
        f"share of the weights of the {one.kind} in matrices that look like their first random values",
        None
        if is_intact
        else Healthy(None, RANDOM_SHARE, "the spectrum of independent values, Marchenko and Pastur 1967"),
    )
    yield Metric(
        f"{one.kind}_random_blocks",
        float(len(one.blocks)),
        f"blocks of the {one.kind} that do as a whole",
        None if is_intact else none,
    )
    yield Metric(f"{one.kind}_dead", one.dead, f"share of outputs of the {one.kind} without a weight")


def _suspicions(one: Audit, *, is_intact: bool) -> Iterator[Suspicion]:
    stages = frozenset({one.kind})
    if one.not_finite:
        text = f"{len(one.not_finite)} tensors hold NaN or infinity, the first is {one.not_finite[0]}"
        yield Suspicion(stages, "weights are not finite", 0.97, text)
    if one.zero:
        text = f"{len(one.zero)} weight matrices are zero throughout, the first is {one.zero[0]}"
        yield Suspicion(stages, "weights were never trained or are lost", 0.6, text)
    if not is_intact and (one.random_share > RANDOM_SHARE or one.blocks):
        text = (
            f"{len(one.random)} of {one.judged} matrices, {one.random_share:.0%} of the weights, look like independent "
            f"random values, the first is {one.random[0]}; whole blocks: {', '.join(one.blocks) or 'none'}"
        )
        strength = max(0.85 if one.blocks else 0.0, min(0.9, 0.4 + one.random_share))
        yield Suspicion(stages, "weights are left at random", strength, text)
