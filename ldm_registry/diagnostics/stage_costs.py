"""What each stage costs in one real run: its time, and the most memory that was held while it worked."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from ldm_registry.costs.resident_memory import MIB
from ldm_registry.costs.stopwatch import Mark, Stopwatch, stopwatch
from ldm_registry.costs.watched import watched
from ldm_registry.costs.weights import weights_bytes
from ldm_registry.diagnostics.probe import affordable
from ldm_registry.diagnostics.report import Costs, StageCost
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.pipeline import Decoded, Started, Stepped, placement
from ldm_registry.vocabulary import STAGES, Kind

IMAGES = 4
WatchOf = Callable[[torch.device], Stopwatch]


@torch.inference_mode()
def stage_costs(subject: Subject, watch_of: WatchOf = stopwatch) -> Costs:
    """Encode a few known images and generate as many, with a stopwatch at every stage.

    The scheduler's time is what sampling takes beside the denoiser: its own arithmetic, guidance, and the reading of
    predictions. On a device that works through a queue the times are those of the queue.

    Args:
        subject: What is run.
        watch_of: Where times and memory are read from, by device.
    """
    pipe = subject.pipe
    count = affordable(subject, IMAGES, least=1)
    devices = {kind: _device(subject, kind) for kind in STAGES}
    watches: dict[torch.device, Stopwatch] = {}
    for device in devices.values():
        watches.setdefault(device, watch_of(device))
    _warm_up(subject, count)
    _settle(watches)
    begin = time.perf_counter()
    ms, peaks, calls = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 1)

    watch = watches[devices[Kind.ENCODER]]
    watch.forget_peak()
    start = watch.mark()
    subject.encode(subject.images[:count], batch=count)
    end = watch.mark()
    _settle(watches)
    ms[Kind.ENCODER], peaks[Kind.ENCODER] = watch.elapsed_ms(start, end), watch.peak_mib() or 0.0

    sampling, decoding = watches[devices[Kind.DENOISER]], watches[devices[Kind.DECODER]]
    with watched(pipe.denoiser, sampling) as denoiser:
        marks: list[Mark] = []
        calls[Kind.SCHEDULER] = 0
        for event in pipe.trace(count, seed=subject.seed, synchronise=False):
            if isinstance(event, Decoded):
                marks.append(decoding.mark())
                peaks[Kind.DECODER] = decoding.peak_mib() or 0.0
            elif isinstance(event, Started):
                sampling.forget_peak()
                marks = [sampling.mark()]
            elif isinstance(event, Stepped):
                calls[Kind.SCHEDULER] += 1
                denoiser.outside()
                ended = sampling.mark()
                if decoding is not sampling:
                    sampling.settle()
                # The decoder's turn begins behind whichever step turns out to be the last.
                marks = [marks[0], ended, decoding.mark()]
                decoding.forget_peak()
    _settle(watches)
    first, last, turn, done = marks
    spent = sum(sampling.elapsed_ms(*pair) for pair in denoiser.pairs)
    ms[Kind.DENOISER], calls[Kind.DENOISER] = spent, len(denoiser.pairs)
    ms[Kind.SCHEDULER] = max(sampling.elapsed_ms(first, last) - spent, 0.0)
    ms[Kind.DECODER] = decoding.elapsed_ms(turn, done)
    peaks[Kind.DENOISER], peaks[Kind.SCHEDULER] = denoiser.peak, denoiser.peak_outside
    wall_ms = (time.perf_counter() - begin) * 1e3
    return Costs(
        count,
        wall_ms,
        sampling.clock,
        sampling.memory,
        tuple(
            StageCost(
                kind,
                str(devices[kind]),
                ms[kind],
                calls[kind],
                peaks[kind] or None,
                weights_bytes(_part(subject, kind)) / MIB,
            )
            for kind in STAGES
        ),
    )


def _warm_up(subject: Subject, count: int) -> None:
    """The first call of a size pays for memory and for choosing kernels; it is not what is asked for."""
    subject.encode(subject.images[:count], batch=count)
    for event in subject.pipe.trace(count, seed=subject.seed, synchronise=False):
        if isinstance(event, Stepped):
            break
    subject.decode(torch.zeros(count, *subject.pipe.latent_shape), batch=count)


def _settle(watches: dict[torch.device, Stopwatch]) -> None:
    for watch in watches.values():
        watch.settle()


def _part(subject: Subject, kind: Kind) -> nn.Module:
    part: nn.Module = getattr(subject.pipe, kind.value)
    return part


def _device(subject: Subject, kind: Kind) -> torch.device:
    """A sampler works where the denoiser does; a part without tensors works where its input is."""
    at = placement(subject.pipe.denoiser)[0]
    return at if kind is Kind.SCHEDULER else placement(_part(subject, kind), default=(at, torch.float32))[0]
