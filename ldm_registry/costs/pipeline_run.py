"""The cost of whole runs of a pipeline, and what a step takes in them beside the denoiser."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm_registry.costs.repeated import Memory, Times, held, timed
from ldm_registry.costs.stopwatch import Mark, Stopwatch, WallClock
from ldm_registry.costs.watched import Watched
from ldm_registry.pipeline import Decoded, Pipeline, Started, Stepped


@dataclass(frozen=True, slots=True)
class Runs:
    """Several runs.

    Attributes:
        times: Of a run, to images on the CPU.
        beside_ms: Of a step, beside the denoiser.
        memory: Of a run.
    """

    times: Times
    beside_ms: Times
    memory: Memory | None


@dataclass(slots=True)
class _Marks:
    watched: Watched
    sampling: list[Mark] = field(default_factory=list)

    def beside_ms(self, watch: Stopwatch) -> float:
        first, *_, last = self.sampling
        denoiser_ms = sum(watch.elapsed_ms(*pair) for pair in self.watched.pairs)
        return max(watch.elapsed_ms(first, last) - denoiser_ms, 0.0) / (len(self.sampling) - 1)


def measured_runs(pipe: Pipeline, batch: int, seed: int, watch: Stopwatch, seconds: float) -> Runs:
    """Run a pipeline as often as there is time for, once at least.

    Args:
        pipe: What to run.
        batch: Images at once.
        seed: Of image 0.
        watch: Of the denoiser's device.
        seconds: To spend, roughly.
    """
    done: list[_Marks] = []

    def run() -> Tensor:
        marks = _Marks(Watched(pipe.denoiser, watch, with_peaks=False))
        done.append(marks)
        return _images(marks, pipe, batch, seed, watch)

    memory = held(lambda: pipe.sample(batch, seed=seed), watch)
    times = timed(run, WallClock(), seconds)
    watch.settle()
    return Runs(times, Times.of([marks.beside_ms(watch) for marks in done]), memory)


@torch.inference_mode()
def _images(marks: _Marks, pipe: Pipeline, batch: int, seed: int, watch: Stopwatch) -> Tensor:
    for event in marks.watched.within(pipe).trace(batch, seed=seed, synchronise=False):
        if isinstance(event, Started | Stepped):
            marks.sampling.append(watch.mark())
    assert isinstance(event, Decoded)
    return event.image.float().clamp(-1, 1).cpu()
