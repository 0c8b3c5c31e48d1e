"""Parity: the first stage, step and module at which two pipelines do not do the same.

Every stage of the second pipeline is given what the first one's stage was given in a run of the first, so that the
difference of one stage never reaches another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from ldm_registry.conditioning import condition_of, negative_of
from ldm_registry.diagnostics.agreement import (
    Match,
    Precision,
    amplification,
    precision_of,
    relative_error,
)
from ldm_registry.diagnostics.differing import TensorGap, differing_settings, differing_tensors
from ldm_registry.diagnostics.module_walk import ModuleGap, Twin, twin_of, walk
from ldm_registry.diagnostics.parity import Parity, judged, worsened
from ldm_registry.diagnostics.recorded_run import Call, Recorded
from ldm_registry.diagnostics.sampler_parity import sampler_parity
from ldm_registry.guidance import guided
from ldm_registry.interfaces import Denoiser, NoiseLevel
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind

WALKED = 2
"""Samples that modules are compared on."""


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
    pair = _Pair.of(getattr(one, kind.value), getattr(other, kind.value), settings)
    try:
        found = _COMPARED[kind](one, other, recorded, images, pair)
    except Exception as error:  # what cannot be run on the same input is a finding, not a crash
        reason = f"it cannot take the first one's input: {type(error).__name__}: {error}"
        found = Parity(kind, Match.UNKNOWN, math.nan, 0.0, "", notes=(reason,))
    return replace(found, settings=settings)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two parts, with what is known of them before they run.

    Attributes:
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
        precision, twin = precision_of(one, other), twin_of(one, other)
        tensors: tuple[TensorGap, ...] = ()
        if twin is not None and twin.one is not twin.other:
            tensors = differing_tensors(twin.one, twin.other, precision, twin.prefixes[0])
        if (tensors or settings) and placement(one) == placement(other):
            precision = precision.exact()
        return cls(one, other, twin, tensors, precision)

    @property
    def tolerance(self) -> float:
        return self.precision.tolerance(_depth(self.one))


def _codec(kind: Kind, pair: _Pair, run: Callable[[nn.Module, Tensor], Tensor], given: Tensor) -> Parity:
    """A half of a codec on one batch."""
    expected, got = run(pair.one, given), run(pair.other, given)
    found = judged(kind, expected, got, pair.tolerance, pair.precision)
    if found.match is Match.DIFFERENT and pair.precision.eps > 0.0:
        steepness = amplification(lambda images: run(pair.one, images), given, pair.precision.eps)
        found = judged(kind, expected, got, pair.tolerance * steepness, pair.precision)
    return _looked_into(found, pair, lambda: run(pair.one, given[:WALKED]))


def _encoder(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor, pair: _Pair) -> Parity:
    def run(part: nn.Module, given: Tensor) -> Tensor:
        device, dtype = placement(part)
        return part.encode(given.to(device, dtype)).cpu()  # type: ignore[operator,no-any-return]  # an Encoder

    return _codec(Kind.ENCODER, pair, run, images)


def _decoder(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor, pair: _Pair) -> Parity:
    def run(part: nn.Module, given: Tensor) -> Tensor:
        device, dtype = placement(part, default=(given.device, given.dtype))
        return part.decode(given.to(device, dtype)).cpu()  # type: ignore[operator,no-any-return]  # a Decoder

    return _codec(Kind.DECODER, pair, run, recorded.latents)


def _denoiser(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor, pair: _Pair) -> Parity:
    asked = _Asked(one, other, recorded)
    precision, tolerance = pair.precision, pair.tolerance
    notes = tuple(asked.misfits())
    if notes:
        return Parity(Kind.DENOISER, Match.UNKNOWN, math.nan, tolerance, precision.name, notes=notes)
    told = tuple(asked.unequal())
    match = Match.DIFFERENT if told else Match.EQUAL
    worst = Parity(Kind.DENOISER, match, 0.0, tolerance, precision.name, notes=told)
    first: Call | None = None
    for call in recorded.calls:
        expected, got, factor = asked.both(call)
        here = judged(Kind.DENOISER, expected, got, tolerance * factor, precision)
        if here.match is Match.DIFFERENT and precision.eps > 0.0:
            steepness = asked.steepness(call, precision.eps)
            here = judged(Kind.DENOISER, expected, got, tolerance * factor * steepness, precision)
        if here.match is Match.DIFFERENT and first is None:
            first = call
        worst = worsened(worst, here, call.step, call.level)
    asked_first = first or recorded.calls[0]
    return _looked_into(worst, pair, lambda: asked.alone(one.denoiser, asked_first, WALKED))


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
        got = self._guided(pipe, call.seen, call)
        scale = max(1.0, 2.0 * abs(pipe.spec.guidance.scale) - 1.0)
        if pipe.denoiser.prediction is self._one.denoiser.prediction:
            return call.prediction, got, scale
        clean = to_x0(pipe.denoiser.prediction, got, call.seen, level)
        return call.x0, clean, scale * (1.0 + float((level.sigma / level.alpha).max()))

    def steepness(self, call: Call, eps: float) -> float:
        """By how much the first enlarges rounding of its input in one call."""
        return amplification(lambda seen: self._guided(self._one, seen, call), call.seen, eps)

    def _guided(self, pipe: Pipeline, seen: Tensor, call: Call) -> Tensor:
        device, dtype = placement(pipe.denoiser)
        output = guided(
            pipe.denoiser,
            seen.to(device, dtype),
            call.level.normalised(),
            _placed(self._recorded.condition, pipe.denoiser),
            pipe.spec.guidance.scale,
            _placed(self._recorded.null, pipe.denoiser),
        )
        return output.prediction.to(call.prediction)

    def alone(self, denoiser: Denoiser, call: Call, count: int) -> object:
        """One answer of a denoiser without guidance, for the first samples."""
        device, dtype = placement(denoiser)
        condition = {name: value[:count] for name, value in self._recorded.condition.items()}
        level = call.level.normalised()
        if level.alpha.ndim:
            level = NoiseLevel(level.alpha[:count], level.sigma[:count])
        return denoiser(call.seen[:count].to(device, dtype), level, _placed(condition, denoiser))


def _looked_into(found: Parity, pair: _Pair, run: Callable[[], object]) -> Parity:
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


def _state_dtype(pipe: Pipeline, recorded: Recorded) -> torch.dtype:
    """What a sampler computes in: as the spec says, else as in the recorded run."""
    said = pipe.spec.scheduler.dtype
    return recorded.start.dtype if said is None else getattr(torch, said)


def _depth(part: nn.Module) -> int:
    """How many operations follow one another at most: the modules that have none inside."""
    return sum(1 for module in part.modules() if next(module.children(), None) is None)


def _placed(condition: Mapping[str, Tensor], denoiser: Denoiser) -> dict[str, Tensor]:
    device, dtype = placement(denoiser)
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in condition.items()
    }


_COMPARED: Mapping[Kind, Callable[[Pipeline, Pipeline, Recorded, Tensor, _Pair], Parity]] = {
    Kind.ENCODER: _encoder,
    Kind.DENOISER: _denoiser,
    Kind.SCHEDULER: lambda one, other, recorded, images, pair: sampler_parity(
        other.scheduler, recorded, _state_dtype(other, recorded)
    ),
    Kind.DECODER: _decoder,
}
