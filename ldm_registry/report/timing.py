"""Run a pipeline to its end and keep what it made, with the time that each stage took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm_registry.pipeline import Decoded, DenoiserCalled, Event, Pipeline, Started, Stepped


@dataclass(frozen=True, slots=True)
class TimedRun:
    """What a run made and what it took.

    Attributes:
        images: uint8 [N, H, W, C].
        seeds: One for each image.
        batches: Batches that were run.
        denoiser_ms: Wall time of each call of the denoiser.
        step_ms: Wall time of each step, denoiser calls included.
        decoder_ms: Wall time of each batch's decoding.
    """

    images: Tensor
    seeds: tuple[int, ...]
    batches: int
    denoiser_ms: tuple[float, ...]
    step_ms: tuple[float, ...]
    decoder_ms: tuple[float, ...]

    @property
    def stages_ms(self) -> dict[str, float]:
        """Total wall time by stage; the scheduler's is what its steps took beside the denoiser."""
        denoiser = sum(self.denoiser_ms)
        return {
            "denoiser": denoiser,
            "scheduler": max(0.0, sum(self.step_ms) - denoiser),
            "decoder": sum(self.decoder_ms),
        }


def events(pipe: Pipeline, n: int, *, seed: int | None = None, batch: int | None = None) -> Iterator[Event]:
    """The events of as many batches as n images take.

    Args:
        pipe: What to run.
        n: Images.
        seed: Of image 0; None takes the spec's.
        batch: Images at once; None makes all of them at once.
    """
    for start in range(0, n, batch or n):
        yield from pipe.trace(min(batch or n, n - start), seed=seed, offset=start)


@dataclass(slots=True)
class _Tally:
    images: list[Tensor] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    batches: int = 0
    denoiser_ms: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    decoder_ms: list[float] = field(default_factory=list)


def drain(happening: Iterable[Event]) -> TimedRun:
    """Consume the events of a run, keeping the images and the times.

    Args:
        happening: What `events` yields.
    """
    tally = _Tally()
    with torch.inference_mode():
        for event in happening:
            match event:
                case Started():
                    tally.batches += 1
                    tally.seeds += event.seeds
                case DenoiserCalled():
                    tally.denoiser_ms.append(event.latency_ms)
                case Stepped():
                    tally.step_ms.append(event.latency_ms)
                case Decoded():
                    tally.decoder_ms.append(event.latency_ms)
                    tally.images.append(to_pixels(event.image))
    return TimedRun(
        torch.cat(tally.images),
        tuple(tally.seeds),
        tally.batches,
        tuple(tally.denoiser_ms),
        tuple(tally.step_ms),
        tuple(tally.decoder_ms),
    )


def to_pixels(image: Tensor) -> Tensor:
    """Images [B, C, H, W] in [-1, 1] to uint8 [B, H, W, C] on the CPU, rounded to the nearest value."""
    values = image.float().clamp(-1, 1).add(1).mul(127.5).round()
    return values.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()
