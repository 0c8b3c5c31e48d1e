"""GOLD: whether each part still puts out what it did when it was saved. No image, no other part is involved."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from ldm_registry.contracts import GoldenOutput
from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.golden import answer, difference
from ldm_registry.pipeline import placement
from ldm_registry.vocabulary import Kind

KINDS = (Kind.ENCODER, Kind.DENOISER, Kind.DECODER)
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 0.01,
    torch.float32: 0.01,
    torch.float16: 0.04,
    torch.bfloat16: 0.2,
}
"""Largest relative difference that rounding makes: float32 may run in TF32, whose 10 bits are those of float16."""
STRENGTH_AT_TOLERANCE, STRONGEST = 0.6, 0.97


def measure_golden_outputs(subject: Subject) -> Measurement:
    """Ask the encoder, the denoiser and the decoder what they were asked when they were saved."""
    begin = time.perf_counter()
    found = {kind: differences(subject, kind) for kind in KINDS}
    known = {kind: values for kind, values in found.items() if values}
    return Measurement(
        "GOLD",
        "Does each part put out what it did when it was saved?",
        frozenset(known),
        tuple(_metrics(subject, known)),
        tuple(_suspicions(subject, known)),
        curves=tuple(_curves(known.get(Kind.DENOISER, []))),
        seconds=time.perf_counter() - begin,
        skipped=None if known else "no contract records golden outputs",
    )


def differences(subject: Subject, kind: Kind) -> list[tuple[GoldenOutput, float]]:
    """Relative difference from each golden output of a stage; none where nothing was recorded of it."""
    recorded = subject.recorded(kind)
    golden = [one for one in recorded.golden_outputs if one.kind is kind] if recorded else []
    return [(one, _difference(subject, one)) for one in golden]


def is_as_saved(subject: Subject, kind: Kind) -> bool:
    """Whether a stage puts out what was recorded when it was saved; false where nothing was."""
    found = differences(subject, kind)
    return bool(found) and all(value <= tolerance(subject, kind) for _, value in found)


def _difference(subject: Subject, golden: GoldenOutput) -> float:
    try:
        return difference(answer(getattr(subject.pipe, golden.kind.value), golden), golden.values)
    except (LdmError, RuntimeError, IndexError):
        return math.inf


def tolerance(subject: Subject, kind: Kind) -> float:
    """Largest relative difference that rounding makes in the number type of a stage."""
    dtype = placement(getattr(subject.pipe, kind.value))[1]
    return TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])


def _metrics(
    subject: Subject, known: Mapping[Kind, Sequence[tuple[GoldenOutput, float]]]
) -> Iterator[Metric]:
    for kind, values in known.items():
        yield Metric(
            f"{kind}_difference",
            max(value for _, value in values),
            f"largest relative difference of the {kind} from its golden outputs",
            Healthy(None, tolerance(subject, kind), "contract: golden outputs, up to rounding"),
        )


def _suspicions(
    subject: Subject, known: Mapping[Kind, Sequence[tuple[GoldenOutput, float]]]
) -> Iterator[Suspicion]:
    for kind, values in known.items():
        worst, where = max((value, _where(golden)) for golden, value in values)
        allowed = tolerance(subject, kind)
        if worst > allowed:
            # An order of magnitude beyond what rounding can do is proof.
            strength = STRENGTH_AT_TOLERANCE + 0.37 * min(1.0, math.log10(worst / allowed))
            yield Suspicion(
                frozenset({kind}),
                "does not compute what it did when it was saved",
                min(STRONGEST, strength),
                f"its output{where} differs by {worst:.3g} (relative) from the recorded one; rounding makes "
                f"{allowed:g} at most",
            )


def _where(golden: GoldenOutput) -> str:
    return "" if golden.log_snr is None else f" at log-SNR {golden.log_snr:g}"


def _curves(values: Sequence[tuple[GoldenOutput, float]]) -> Iterator[Curve]:
    points = tuple(
        (golden.log_snr, value)
        for golden, value in values
        if golden.log_snr is not None and math.isfinite(value)
    )
    if points:
        lines = {"difference": points}
        yield Curve("Difference from golden outputs", "log-SNR (nats)", "relative", lines, log_y=False)
