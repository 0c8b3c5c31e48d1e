"""The cost of whole runs of a pipeline, and what a step takes in them beside the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ldm_registry.costs.repeated import Memory, Times, held, timed
from ldm_registry.costs.stopwatch import Mark, Stopwatch, WallClock
from ldm_registry.costs.watched import Watched, watched
from ldm_registry.pipeline import Decoded, Pipeline, Started, Stepped


@dataclass(frozen=True, slots=True)
class Runs:
    """Several runs.

    Attributes:
        times: Of a run, to images on the CPU.
        denoiser_ms: Of a call of the denoiser in it.
        beside_ms: Of a step, beside the denoiser.
        memory: Of a run.
    """

    times: Times
    denoiser_ms: Times
    beside_ms: Times
    memory: Memory | None


def measured_runs(pipe: Pipeline, batch: int, seed: int, watch: Stopwatch, seconds: float) -> Runs:
    """Run a pipeline as often as there is time for, once at least.

    Args:
        pipe: What to run.
        batch: Images at once.
        seed: Of image 0.
        watch: Of the denoiser's device.
        seconds: To spend, roughly.
    """
    done: list[tuple[Watched, list[Mark]]] = []

    def run() -> None:
        with watched(pipe.denoiser, watch, with_peaks=False) as calls:
            done.append((calls, _sampled(pipe, batch, seed, watch)))

    memory = held(lambda: pipe.sample(batch, seed=seed), watch)
    times = timed(run, WallClock(), seconds)
    watch.settle()
    denoiser_ms = [_denoiser_ms(watch, calls) / len(calls.pairs) for calls, _ in done]
    beside_ms = [_beside_ms(watch, *one) for one in done]
    return Runs(times, Times.of(denoiser_ms), Times.of(beside_ms), memory)


@torch.inference_mode()
def _sampled(pipe: Pipeline, batch: int, seed: int, watch: Stopwatch) -> list[Mark]:
    """Make images, on the CPU; marks where sampling begins and behind each of its steps."""
    marks = []
    for event in pipe.trace(batch, seed=seed, synchronise=False):
        if isinstance(event, Started | Stepped):
            marks.append(watch.mark())
    assert isinstance(event, Decoded)
    event.image.float().clamp(-1, 1).cpu()
    return marks


def _denoiser_ms(watch: Stopwatch, calls: Watched) -> float:
    return sum(watch.elapsed_ms(*pair) for pair in calls.pairs)


def _beside_ms(watch: Stopwatch, calls: Watched, marks: Sequence[Mark]) -> float:
    beside_ms = watch.elapsed_ms(marks[0], marks[-1]) - _denoiser_ms(watch, calls)
    return max(beside_ms, 0.0) / (len(marks) - 1)
