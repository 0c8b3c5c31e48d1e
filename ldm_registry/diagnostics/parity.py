"""What is said of one stage of a pipeline that was given the input of the same stage of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ldm_registry.diagnostics.agreement import Match, Precision, is_equal, matched, relative_error
from ldm_registry.diagnostics.differing import TensorGap
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.vocabulary import STAGES, Kind

_SEVERITY = {Match.EQUAL: 0, Match.ROUNDING: 1, Match.DIFFERENT: 2, Match.UNKNOWN: 3}


@dataclass(frozen=True, slots=True)
class Parity:
    """One stage of the second pipeline, fed with what the first one's was fed with.

    Attributes:
        stage: Which.
        match: Whether it gives the same.
        relative_error: Of what it gives, root mean square; the largest over all calls. NaN where it was not compared.
        tolerance: What rounding alone explains.
        precision: The coarser floating-point type of the two, such as `float16`.
        step: The first sampling step at which it differs, from 0, -1 for the noise that sampling starts from; None
            where the stage takes no steps or does not differ.
        log_snr: At that step, nats.
        module: The first module that answers otherwise to the same input, dotted; None where none was found.
        module_kind: Its class.
        module_error: Relative error of its answer.
        modules: How many modules differ by themselves, of how many that were compared.
        tensors: Weights that differ by more than rounding, those of that module first.
        settings: What is configured otherwise, a line each.
        notes: What could not be looked into, and why.
    """

    stage: Kind
    match: Match
    relative_error: float
    tolerance: float
    precision: str
    step: int | None = None
    log_snr: float | None = None
    module: str | None = None
    module_kind: str | None = None
    module_error: float | None = None
    modules: tuple[int, int] = (0, 0)
    tensors: tuple[TensorGap, ...] = ()
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_identical(self) -> bool:
        """Whether nothing about it differs, so that neither pipeline would notice an exchange."""
        return self.match is Match.EQUAL and not (self.tensors or self.settings or self.notes)

    @property
    def is_precise_otherwise(self) -> bool:
        """Whether the two compute in other types or on other devices, and nothing else is known to differ."""
        said = {line.partition(":")[0] for line in self.settings}
        return bool(said) and said <= {"dtype", "device"} and not self.tensors

    @property
    def order(self) -> tuple[int, int, int]:
        """When its difference comes to bear in a run: encoder, then steps, then decoder."""
        if self.stage is Kind.ENCODER:
            return 0, 0, 0
        if self.stage is Kind.DECODER:
            return 2, 0, 0
        return 1, 0 if self.step is None else self.step, STAGES.index(self.stage)


def first_parting(parities: Sequence[Parity]) -> Parity | None:
    """The stage at which two runs part first, by more than rounding; None where they do not."""
    different = [one for one in parities if one.match is Match.DIFFERENT]
    return min(different, key=lambda one: one.order, default=None)


def judged(kind: Kind, expected: Tensor, got: Tensor, tolerance: float, precision: Precision) -> Parity:
    """One answer of a stage against the expected one, both of any shape."""
    error = relative_error(expected, got)
    return Parity(kind, matched(error, is_equal(expected, got), tolerance), error, tolerance, precision.name)


def worsened(found: Parity, here: Parity, step: int, level: NoiseLevel) -> Parity:
    """What is known so far, with one more answer: the worst match, the largest error, the first step that differs.

    Args:
        found: So far.
        here: Of this answer alone.
        step: That it belongs to, as in `Parity`.
        level: At that step.
    """
    if here.match is Match.DIFFERENT and found.match is not Match.DIFFERENT:
        found = replace(found, step=step, log_snr=float(level.log_snr.max()))
    worst = here.match if _SEVERITY[here.match] > _SEVERITY[found.match] else found.match
    return replace(found, match=worst, relative_error=max(found.relative_error, here.relative_error))
