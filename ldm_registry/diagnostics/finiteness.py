"""FIN: is every number that crosses a boundary finite, and far from the limit of its type?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.pipeline import Decoded, DenoiserCalled, Event, Started, Stepped, placement
from ldm_registry.vocabulary import STAGES, Kind

IMAGES = 2
CALLS_QUICK = 6
"""Denoiser calls that a quick run waits for."""
HEADROOM = 0.25
"""Share of a type's largest number that a healthy stage stays below: another image may double it."""
FINITE = Healthy(0.0, 0.0, "arithmetic")


@dataclass(frozen=True, slots=True)
class Boundary:
    """One tensor that crossed from one stage to the next.

    Attributes:
        stage: Which stage made it.
        what: In words, with the step where there is one.
        bad: Share of NaN and infinities.
        nan: Share of NaN.
        largest: Greatest finite magnitude.
        limit: Largest number of the type that the stage runs in.
    """

    stage: Kind
    what: str
    bad: float
    nan: float
    largest: float
    limit: float

    @classmethod
    def of(cls, stage: Kind, what: str, values: Tensor, dtype: torch.dtype) -> Boundary:
        """Look at a tensor."""
        finite = values.isfinite()
        kept = values[finite].abs()
        return cls(
            stage,
            what,
            float((~finite).double().mean()),
            float(values.isnan().double().mean()),
            float(kept.max()) if kept.numel() else math.inf,
            float(torch.finfo(dtype).max),
        )


def measure_finiteness(subject: Subject) -> Measurement:
    """Run the codec and one short batch, look at every boundary, and name the first bad one."""
    begin = time.perf_counter()
    boundaries = tuple(_boundaries(subject))
    first = next((one for one in boundaries if one.bad > 0), None)
    suspicions = tuple(_suspicions(subject, boundaries, first))
    bad_metrics = [
        Metric(
            f"{stage}_bad_share",
            max((one.bad for one in boundaries if one.stage is stage), default=0.0),
            f"NaN or infinite outputs of the {stage}, worst boundary",
            FINITE,
        )
        for stage in STAGES
    ]
    ranges = [
        Metric(
            f"{stage}_max_abs",
            max((one.largest for one in boundaries if one.stage is stage), default=math.nan),
            f"greatest magnitude that the {stage} puts out",
            _range(subject, stage),
        )
        for stage in STAGES
        if any(one.stage is stage for one in boundaries)
    ]
    return Measurement(
        "FIN",
        "Is every number that crosses a boundary finite?",
        frozenset(STAGES),
        (*bad_metrics, *ranges),
        suspicions,
        curves=(_curve(boundaries),),
        seconds=time.perf_counter() - begin,
    )


def _range(subject: Subject, stage: Kind) -> Healthy:
    dtype = placement(getattr(subject.pipe, stage))[1]
    return Healthy(None, HEADROOM * float(torch.finfo(dtype).max), f"a quarter of what {dtype} holds")


def _boundaries(subject: Subject) -> Iterator[Boundary]:
    images = subject.images[:IMAGES]
    latents = subject.encode(images)
    encoder, decoder, denoiser = (
        placement(getattr(subject.pipe, kind))[1] for kind in (Kind.ENCODER, Kind.DECODER, Kind.DENOISER)
    )
    yield Boundary.of(Kind.ENCODER, "latents of known images", latents, encoder)
    if bool(latents.isfinite().all()):
        yield Boundary.of(Kind.DECODER, "decoded latents of known images", subject.decode(latents), decoder)
    with torch.no_grad():
        for calls, event in enumerate(_run(subject)):
            yield from _of_event(event, denoiser, decoder)
            if subject.quick and calls >= 2 * CALLS_QUICK:
                break


def _run(subject: Subject) -> Iterator[Event]:
    """One short batch under the condition of the known images, where there is one that the spec knows."""
    return subject.pipe.trace(IMAGES, seed=subject.seed, synchronise=False)


def _of_event(event: Event, denoiser: torch.dtype, decoder: torch.dtype) -> Iterator[Boundary]:
    match event:
        case Started():
            yield Boundary.of(Kind.SCHEDULER, "the noise at the start", event.z, event.z.dtype)
        case DenoiserCalled():
            # What reaches the denoiser is the sampler's; only the prediction is its own.
            yield Boundary.of(Kind.DENOISER, f"prediction of call {event.index}", event.prediction, denoiser)
            yield Boundary.of(
                Kind.SCHEDULER, f"clean estimate of call {event.index}", event.x0, event.z.dtype
            )
        case Stepped():
            yield Boundary.of(Kind.SCHEDULER, f"state after step {event.index}", event.z, event.z.dtype)
        case Decoded():
            yield Boundary.of(Kind.DECODER, "decoded images", event.image, decoder)


def _suspicions(
    subject: Subject, boundaries: tuple[Boundary, ...], first: Boundary | None
) -> Iterator[Suspicion]:
    for bad in _culprits(boundaries, first):
        sort = "NaN" if bad.nan > 0 else "infinite values"
        where = _first_inside(subject, bad.stage)
        why = f"{bad.bad:.1%} of the {bad.what} are not finite; everything before is" + where
        yield Suspicion(frozenset({bad.stage}), f"{sort} in the {bad.what}", 1.0, why)
    for stage in STAGES:
        near = [one for one in boundaries if one.stage is stage and not one.bad]
        worst = max(near, key=lambda one: one.largest / one.limit, default=None)
        if worst is not None and worst.largest > HEADROOM * worst.limit:
            why = f"up to {worst.largest:.3g} where the type ends at {worst.limit:.3g} ({worst.what})"
            yield Suspicion(frozenset({stage}), "outputs come near the limit of their type", 0.6, why)


def _culprits(boundaries: tuple[Boundary, ...], first: Boundary | None) -> Iterator[Boundary]:
    """The first bad boundary of the run; and of the codec, whose inputs were finite, too."""
    if first is None:
        return
    yield first
    if first.stage is Kind.ENCODER:
        # The run starts from noise: what is bad there is no doing of the encoder.
        later = next((one for one in boundaries if one.bad > 0 and one.stage is not Kind.ENCODER), None)
        if later is not None:
            yield later


def _first_inside(subject: Subject, stage: Kind) -> str:
    """The first module of a codec half whose output is not finite, as the end of a sentence."""
    if stage not in (Kind.ENCODER, Kind.DECODER):
        return ""
    part = getattr(subject.pipe, stage)
    with _watched(part) as seen:
        latents = subject.encode(subject.images[:IMAGES])
        if stage is Kind.DECODER and bool(latents.isfinite().all()):
            subject.decode(latents)
    bad = next((name for name, finite in seen if not finite), None)
    return f" (first inside at {bad})" if bad else ""


@contextmanager
def _watched(part: nn.Module) -> Iterator[list[tuple[str, bool]]]:
    """Whether each submodule's outputs are finite, in order, while the block runs; keeps no activation."""
    seen: list[tuple[str, bool]] = []

    def watch(name: str) -> Any:
        def record(_part: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                seen.append((name, bool(output.isfinite().all())))

        return record

    hooks = [module.register_forward_hook(watch(name)) for name, module in part.named_modules() if name]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _curve(boundaries: tuple[Boundary, ...]) -> Curve:
    states = [one for one in boundaries if one.what.startswith("state after")]
    guesses = [one for one in boundaries if one.what.startswith("clean estimate")]
    lines = {
        name: tuple((float(index), one.largest) for index, one in enumerate(found))
        for name, found in (("state", states), ("clean estimate", guesses))
        if found
    }
    return Curve("Largest magnitude along the run", "step", "max |value|", lines, log_y=True)
