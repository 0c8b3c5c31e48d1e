"""A run of a pipeline with everything that crossed between its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from ldm_registry.conditioning import condition_of, negative_of
from ldm_registry.interfaces import (
    ComponentConfig,
    Denoise,
    Denoised,
    Generators,
    NoiseLevel,
    NoiseLevels,
    Scheduler,
    Step,
)
from ldm_registry.noise import randn
from ldm_registry.pipeline import DenoiserCalled, Pipeline, Started, Stepped


@dataclass(frozen=True, slots=True)
class Call:
    """One question of the sampler to the denoiser, and the answer.

    Attributes:
        step: The sampling step that it belongs to, from 0.
        level: As the sampler gave it.
        z: [B, c, h, w], not normalised.
        seen: [B, c, h, w], normalised: what the network saw.
        prediction: [B, c, h, w], after guidance.
        answer: What the sampler got back.
    """

    step: int
    level: NoiseLevel
    z: Tensor
    seen: Tensor
    prediction: Tensor
    answer: Denoised

    @property
    def x0(self) -> Tensor:
        """[B, c, h, w], the clean estimate."""
        return self.answer.x0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What crossed in one run.

    Attributes:
        seeds: One for each image.
        levels: That were visited.
        noise: [B, c, h, w], standard normal.
        start: [B, c, h, w], what sampling started from.
        calls: In order.
        states: [B, c, h, w] after each step.
        condition: What the denoiser was told, by name.
        null: What stood for no condition, as far as conditioners made it.
    """

    seeds: tuple[int, ...]
    levels: NoiseLevels
    noise: Tensor
    start: Tensor
    calls: tuple[Call, ...]
    states: tuple[Tensor, ...]
    condition: Mapping[str, Tensor]
    null: Mapping[str, Tensor]

    @property
    def latents(self) -> Tensor:
        """[B, c, h, w], what sampling ended with."""
        return self.states[-1]


@torch.inference_mode()
def record(pipe: Pipeline, count: int, seed: int) -> Recorded:
    """Make images and keep what crossed; the images themselves are not made.

    Args:
        pipe: Any.
        count: B.
        seed: Of image 0.
    """
    listener = _Listener(pipe.scheduler)
    events = replace(pipe, scheduler=listener).trace(count, seed=seed, synchronise=False)
    started = next(events)
    assert isinstance(started, Started)
    seen: list[DenoiserCalled] = []
    at_step: list[int] = []
    states: list[Tensor] = []
    for event in events:
        if isinstance(event, DenoiserCalled):
            seen.append(event)
            at_step.append(len(states))
        elif isinstance(event, Stepped):
            states.append(event.z)
            if len(states) == len(started.levels) - 1:
                break
    calls = tuple(
        Call(step, event.level, z, event.z, event.prediction, answer)
        for step, event, (z, answer) in zip(at_step, seen, listener.heard, strict=True)
    )
    image = pipe.spec.image
    size = (image.height, image.width)
    generators = [torch.Generator().manual_seed(one) for one in started.seeds]
    noise = randn(started.z.shape, generators, device=started.z.device, dtype=started.z.dtype)
    null = negative_of(pipe.conditioners, pipe.spec.guidance.negative, count, size)
    condition = condition_of(pipe.denoiser, pipe.conditioners, pipe.spec.condition, range(count), size)
    return Recorded(started.seeds, started.levels, noise, started.z, calls, tuple(states), condition, null)


@final
class _Listener(Scheduler):
    """A sampler that keeps what it asked and what it was told."""

    name = "listener"
    Config = ComponentConfig

    def __init__(self, inner: Scheduler) -> None:
        super().__init__()
        self.config = inner.config
        self._hidden = (inner,)  # in a tuple, so that it does not become a submodule
        self.heard: list[tuple[Tensor, Denoised]] = []

    def levels(self) -> NoiseLevels:
        return self._hidden[0].levels()

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        def listened(z: Tensor, level: NoiseLevel) -> Denoised:
            answer = denoise(z, level)
            self.heard.append((z, answer))
            return answer

        return self._hidden[0].trajectory(listened, z, generator)
