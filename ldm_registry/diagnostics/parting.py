"""Parity: the first stage, step and module at which two pipelines do not do the same.

Every stage of the second pipeline is given what the first one's stage was given in a run of the first, so that the
difference of one stage never reaches another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ldm_registry.diagnostics.agreement import (
    Match,
    amplification,
)
from ldm_registry.diagnostics.conditioner_parity import conditioner_gaps
from ldm_registry.diagnostics.differing import differing_settings
from ldm_registry.diagnostics.parity import Parity, judged, worsened
from ldm_registry.diagnostics.part_pair import PartPair, looked_into
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
    pair = PartPair.of(getattr(one, kind.value), getattr(other, kind.value), settings)
    try:
        found = _COMPARED[kind](one, other, recorded, images, pair)
    except Exception as error:  # what cannot be run on the same input is a finding, not a crash
        reason = f"it cannot take the first one's input: {type(error).__name__}: {error}"
        found = Parity(kind, Match.UNKNOWN, math.nan, 0.0, "", notes=(reason,))
    return replace(found, settings=settings)


def _codec(kind: Kind, pair: PartPair, run: Callable[[nn.Module, Tensor], Tensor], given: Tensor) -> Parity:
    """A half of a codec on one batch."""
    expected, got = run(pair.one, given), run(pair.other, given)
    found = judged(kind, expected, got, pair.tolerance, pair.precision)
    if found.match is Match.DIFFERENT and pair.precision.eps > 0.0:
        steepness = amplification(lambda images: run(pair.one, images), given, pair.precision.eps)
        found = judged(kind, expected, got, pair.tolerance * steepness, pair.precision)
    return looked_into(found, pair, lambda: run(pair.one, given[:WALKED]))


def _encoder(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor, pair: PartPair) -> Parity:
    def run(part: nn.Module, given: Tensor) -> Tensor:
        device, dtype = placement(part)
        return part.encode(given.to(device, dtype)).cpu()  # type: ignore[operator,no-any-return]  # an Encoder

    return _codec(Kind.ENCODER, pair, run, images)


def _decoder(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor, pair: PartPair) -> Parity:
    def run(part: nn.Module, given: Tensor) -> Tensor:
        device, dtype = placement(part, default=(given.device, given.dtype))
        return part.decode(given.to(device, dtype)).cpu()  # type: ignore[operator,no-any-return]  # a Decoder

    return _codec(Kind.DECODER, pair, run, recorded.latents)


def _denoiser(one: Pipeline, other: Pipeline, recorded: Recorded, images: Tensor, pair: PartPair) -> Parity:
    asked = _Asked(one, other, recorded)
    precision, tolerance = pair.precision, pair.tolerance
    notes = tuple(asked.misfits())
    if notes:
        return Parity(Kind.DENOISER, Match.UNKNOWN, math.nan, tolerance, precision.name, notes=notes)
    told = tuple(conditioner_gaps(one, other, len(recorded.seeds)))
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
    if told and worst.relative_error == 0.0:
        return worst
    asked_first = first or recorded.calls[0]
    return looked_into(worst, pair, lambda: asked.alone(one.denoiser, asked_first, WALKED))


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


def _state_dtype(pipe: Pipeline, recorded: Recorded) -> torch.dtype:
    """What a sampler computes in: as the spec says, else as in the recorded run."""
    said = pipe.spec.scheduler.dtype
    return recorded.start.dtype if said is None else getattr(torch, said)


def _placed(condition: Mapping[str, Tensor], denoiser: Denoiser) -> dict[str, Tensor]:
    device, dtype = placement(denoiser)
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in condition.items()
    }


_COMPARED: Mapping[Kind, Callable[[Pipeline, Pipeline, Recorded, Tensor, PartPair], Parity]] = {
    Kind.ENCODER: _encoder,
    Kind.DENOISER: _denoiser,
    Kind.SCHEDULER: lambda one, other, recorded, images, pair: sampler_parity(
        other.scheduler, recorded, _state_dtype(other, recorded)
    ),
    Kind.DECODER: _decoder,
}
