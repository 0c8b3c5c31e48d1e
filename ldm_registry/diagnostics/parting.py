"""Parity: the first stage, step and module at which two pipelines do not do the same.

Every stage of the second pipeline is given what the first one's stage was given in a run of the first, so that the
difference of one stage never reaches another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ldm_registry.conditioning import condition_of, negative_of
from ldm_registry.diagnostics.agreement import (
    Match,
    Precision,
    is_equal,
    matched,
    precision_of,
    relative_error,
)
from ldm_registry.diagnostics.differing import TensorGap, differing_settings, differing_tensors
from ldm_registry.diagnostics.module_walk import ModuleGap, twin_of, walk
from ldm_registry.diagnostics.recorded_run import Call, Recorded
from ldm_registry.guidance import guided
from ldm_registry.interfaces import Denoised, Denoiser, NoiseLevel
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import STAGES, Kind

LEVEL_TOLERANCE_NATS = 1e-4
"""Of the log-SNR at which a sampler asks: what tables in single precision are off by."""
WALKED = 2
"""Samples that modules are compared on."""


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


@torch.inference_mode()
def parity(one: Pipeline, other: Pipeline, kind: Kind, recorded: Recorded, images: Tensor) -> Parity:
    """Compare one stage of two pipelines on the same inputs.

    Args:
        one: The pipeline that was recorded.
        other: The one that is compared with it.
        kind: The stage.
        recorded: A run of the first.
        images: [N, C, H, W] in [-1, 1], for the codec.
    """
    settings = differing_settings(one, other, kind)
    try:
        found = _COMPARED[kind](one, other, recorded, images)
    except Exception as error:  # what cannot be run on the same input is a finding, not a crash
        reason = f"it cannot take the first one's input: {type(error).__name__}: {error}"
        found = Parity(kind, Match.UNKNOWN, math.nan, 0.0, "", notes=(reason,))
    return replace(found, settings=settings)


def _codec(
    kind: Kind, one: nn.Module, other: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], given: Tensor
) -> Parity:
    """A half of a codec on one batch."""
    expected, got = run(one, given), run(other, given)
    precision = precision_of(one, other)
    tolerance = precision.tolerance(_depth(one))
    found = _judged(kind, expected, got, tolerance, precision)
    return _looked_into(found, one, other, lambda: run(one, given[:WALKED]), precision)


def _encoder(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor) -> Parity:
    def run(part: nn.Module, given: Tensor) -> Tensor:
        device, dtype = placement(part)
        return part.encode(given.to(device, dtype)).cpu()  # type: ignore[operator,no-any-return]  # an Encoder

    return _codec(Kind.ENCODER, one.encoder, other.encoder, run, images)


def _decoder(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor) -> Parity:
    def run(part: nn.Module, given: Tensor) -> Tensor:
        device, dtype = placement(part, default=(given.device, given.dtype))
        return part.decode(given.to(device, dtype)).cpu()  # type: ignore[operator,no-any-return]  # a Decoder

    return _codec(Kind.DECODER, one.decoder, other.decoder, run, recorded.latents)


def _denoiser(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor) -> Parity:
    asked = _Asked(one, other, recorded)
    precision = precision_of(one.denoiser, other.denoiser)
    tolerance = precision.tolerance(_depth(one.denoiser))
    notes = tuple(asked.misfits())
    if notes:
        return Parity(Kind.DENOISER, Match.UNKNOWN, math.nan, tolerance, precision.name, notes=notes)
    worst = Parity(Kind.DENOISER, Match.EQUAL, 0.0, tolerance, precision.name, notes=tuple(asked.unequal()))
    first: Call | None = None
    for call in recorded.calls:
        expected, got, factor = asked.both(call)
        here = _judged(Kind.DENOISER, expected, got, tolerance * factor, precision)
        if here.match is Match.DIFFERENT and first is None:
            first = call
            worst = replace(worst, step=call.step, log_snr=float(call.level.log_snr))
        if _SEVERITY[here.match] >= _SEVERITY[worst.match]:
            error = max(worst.relative_error, here.relative_error)
            worst = replace(worst, match=here.match, relative_error=error)
    if first is None:
        return _with_tensors(worst, one.denoiser, other.denoiser, precision)
    return _looked_into(
        worst, one.denoiser, other.denoiser, lambda: asked.alone(one.denoiser, first, WALKED), precision
    )


class _Asked:
    """Both denoisers, asked the same."""

    def __init__(self, one: Pipeline, other: Pipeline, recorded: Recorded) -> None:
        self._one, self._other, self._recorded = one, other, recorded

    def misfits(self) -> Iterator[str]:
        """Why the second cannot be asked what the first was asked."""
        accepted = self._other.denoiser.conditioning
        for name in self._recorded.condition:
            if name not in accepted:
                yield f"it takes {', '.join(accepted) or 'no condition'}, the first takes {name}"
        mine, yours = (pipe.denoiser.latent_space.channels for pipe in (self._one, self._other))
        if mine != yours:
            yield f"it works on {yours} latent channels, the first on {mine}"

    def unequal(self) -> Iterator[str]:
        """Where the texts are turned into something else."""
        pipe, count = self._other, len(self._recorded.seeds)
        if not pipe.conditioners and not self._one.conditioners:
            return
        size = (self._one.spec.image.height, self._one.spec.image.width)
        given = condition_of(
            pipe.denoiser, pipe.conditioners, self._one.spec.condition, range(count), size
        ) | negative_of(pipe.conditioners, self._one.spec.guidance.negative, count, size)
        theirs = {**self._recorded.condition, **self._recorded.null}
        for name, expected in theirs.items():
            error = relative_error(expected, given[name]) if name in given else math.inf
            if error > precision_of(self._one.denoiser, pipe.denoiser).tolerance(100):
                yield f"the conditioners give another {name} for the same texts: relative error {error:.2g}"

    def both(self, call: Call) -> tuple[Tensor, Tensor, float]:
        """What the two say in one call, and by how much their reading amplifies rounding."""
        pipe, level = self._other, call.level.normalised()
        device, dtype = placement(pipe.denoiser)
        output = guided(
            pipe.denoiser,
            call.seen.to(device, dtype),
            level,
            _placed(self._recorded.condition, pipe.denoiser),
            pipe.spec.guidance.scale,
            _placed(self._recorded.null, pipe.denoiser),
        )
        got = output.prediction.to(call.prediction)
        scale = max(1.0, 2.0 * abs(pipe.spec.guidance.scale) - 1.0)
        if pipe.denoiser.prediction is self._one.denoiser.prediction:
            return call.prediction, got, scale
        clean = to_x0(pipe.denoiser.prediction, got, call.seen, level)
        return call.x0, clean, scale * (1.0 + float((level.sigma / level.alpha).max()))

    def alone(self, denoiser: Denoiser, call: Call, count: int) -> object:
        """One answer of a denoiser without guidance, for the first samples."""
        device, dtype = placement(denoiser)
        condition = {name: value[:count] for name, value in self._recorded.condition.items()}
        level = call.level.normalised()
        if level.alpha.ndim:
            level = NoiseLevel(level.alpha[:count], level.sigma[:count])
        return denoiser(call.seen[:count].to(device, dtype), level, _placed(condition, denoiser))


def _scheduler(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor) -> Parity:
    """The second sampler is handed the first one's clean estimates, call by call."""
    precision = Precision(torch.finfo(recorded.start.dtype).eps, str(recorded.start.dtype).split(".")[-1])
    count = len(recorded.levels) - 1
    found = Parity(Kind.SCHEDULER, Match.EQUAL, 0.0, precision.tolerance(count), precision.name)
    levels = other.scheduler.levels()
    noise = recorded.noise
    found = _worse(found, recorded.start, levels.prior(noise), -1, recorded.levels[0])
    replay = _Replay(recorded)
    generators = [torch.Generator().manual_seed(seed) for seed in recorded.seeds]
    try:
        for step in other.scheduler.trajectory(replay, recorded.start, generators):
            for call, z in replay.drain():
                found = _worse(found, call.z, z, call.step, call.level)
            if step.index < count:
                found = _worse(found, recorded.states[step.index], step.z, step.index, step.level)
    except _OtherLevelError as parted:
        found = replace(found, match=Match.DIFFERENT, notes=(str(parted),))
        if found.step is None:
            found = replace(found, step=parted.step, log_snr=parted.log_snr)
    if len(levels) - 1 != count and found.match is not Match.DIFFERENT:
        found = replace(found, match=Match.DIFFERENT, step=min(len(levels) - 1, count))
    return found


class _OtherLevelError(Exception):
    """A sampler asks at another noise level than the one that was recorded."""

    def __init__(self, asked: float, expected: float | None, step: int) -> None:
        wanted = "asks no more" if expected is None else f"asks at {expected:.4f}"
        super().__init__(
            f"in step {step + 1} it asks the denoiser at log-SNR {asked:.4f}, where the first {wanted}"
        )
        self.step, self.log_snr = step, asked


class _Replay:
    """The recorded answers, one call after the other, whatever state is handed in."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded, self._made = recorded, 0
        self._asked: list[tuple[Call, Tensor]] = []

    def __call__(self, z: Tensor, level: NoiseLevel) -> Denoised:
        calls = self._recorded.calls
        asked = float(level.log_snr.max())
        if self._made >= len(calls):
            raise _OtherLevelError(asked, None, calls[-1].step + 1)
        call = calls[self._made]
        expected = float(call.level.log_snr.max())
        if asked != expected and not abs(asked - expected) <= LEVEL_TOLERANCE_NATS:
            raise _OtherLevelError(asked, expected, call.step)
        self._made += 1
        self._asked.append((call, z))
        return call.answer

    def drain(self) -> list[tuple[Call, Tensor]]:
        """The calls since the last time, each with the state that was handed in."""
        asked, self._asked = self._asked, []
        return asked


def _worse(found: Parity, expected: Tensor, got: Tensor, step: int, level: NoiseLevel) -> Parity:
    here = relative_error(expected, got)
    match = matched(here, is_equal(expected, got), found.tolerance)
    if match is Match.DIFFERENT and found.match is not Match.DIFFERENT:
        return replace(
            found,
            match=match,
            relative_error=max(found.relative_error, here),
            step=step,
            log_snr=float(level.log_snr.max()),
        )
    worst = match if _SEVERITY[match] > _SEVERITY[found.match] else found.match
    return replace(found, match=worst, relative_error=max(found.relative_error, here))


def _judged(kind: Kind, expected: Tensor, got: Tensor, tolerance: float, precision: Precision) -> Parity:
    error = relative_error(expected, got)
    return Parity(kind, matched(error, is_equal(expected, got), tolerance), error, tolerance, precision.name)


def _looked_into(
    found: Parity, one: nn.Module, other: nn.Module, run: Callable[[], object], precision: Precision
) -> Parity:
    """With the weights that differ, and the module, where the answers do."""
    found = _with_tensors(found, one, other, precision)
    if found.match is not Match.DIFFERENT:
        return found
    twin = twin_of(one, other)
    if twin is None:
        classes = f"{type(one).__name__} and {type(other).__name__}"
        return replace(found, notes=(*found.notes, f"other classes, so no modules to compare: {classes}"))
    walked = walk(twin.one, twin.other, run)
    compared = len(walked.gaps)
    if not walked.culprits:
        whole = any(gap.name == "" for gap in walked.gaps)
        note = "every module answers as its twin does: the difference is in what the part does around them"
        if whole:
            note = (
                "the network answers as its twin does: the difference is in the guidance or in how it is read"
            )
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


def _with_tensors(found: Parity, one: nn.Module, other: nn.Module, precision: Precision) -> Parity:
    """With the weights that differ; a part whose weights do is not the same up to rounding."""
    twin = twin_of(one, other)
    if twin is None or twin.one is twin.other:
        return found
    tensors = differing_tensors(twin.one, twin.other, precision, twin.prefixes[0])
    match = Match.DIFFERENT if tensors and found.match is Match.ROUNDING else found.match
    return replace(found, tensors=tensors, match=match)


def _depth(part: nn.Module) -> int:
    """How many operations follow one another at most: the modules that have none inside."""
    return sum(1 for module in part.modules() if next(module.children(), None) is None)


def _placed(condition: Mapping[str, Tensor], denoiser: Denoiser) -> dict[str, Tensor]:
    device, dtype = placement(denoiser)
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in condition.items()
    }


_SEVERITY = {Match.EQUAL: 0, Match.ROUNDING: 1, Match.DIFFERENT: 2, Match.UNKNOWN: 3}
_COMPARED: Mapping[Kind, Callable[[Pipeline, Pipeline, Recorded, Tensor], Parity]] = {
    Kind.ENCODER: _encoder,
    Kind.DENOISER: _denoiser,
    Kind.SCHEDULER: _scheduler,
    Kind.DECODER: _decoder,
}
