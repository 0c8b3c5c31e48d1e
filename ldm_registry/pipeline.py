"""Run four parts as one pipeline, and say everything that happens as events.

`trace()` yields events as they occur and does no more than the consumer pulls; `sample()` drains it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from ldm_registry.conditioning import Values, condition_of, negative_of
from ldm_registry.contracts import Contract
from ldm_registry.errors import SpecError
from ldm_registry.guidance import Guidance
from ldm_registry.interfaces import (
    Condition,
    Conditioner,
    Decoder,
    Denoised,
    Denoiser,
    Encoder,
    NoiseLevel,
    NoiseLevels,
    Scheduler,
    broadcast,
    randn,
)
from ldm_registry.prediction import to_x0
from ldm_registry.runtime.offload import held, prefetch, running_device
from ldm_registry.runtime.transfer import moved
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import Kind

STEPS_AHEAD = 3
"""Steps before the last one at which an offloaded decoder starts to come in."""


@dataclass(frozen=True, slots=True)
class Started:
    """Sampling begins.

    Attributes:
        seeds: One for each image.
        levels: The levels that will be visited.
        z: [B, C, H, W], the noise that sampling starts from.
    """

    seeds: tuple[int, ...]
    levels: NoiseLevels
    z: Tensor


@dataclass(frozen=True, slots=True)
class DenoiserCalled:
    """The sampler asked for a clean estimate.

    Attributes:
        index: How many calls came before it.
        level: As the sampler gave it, not normalised.
        z: [B, C, H, W], normalised: what the denoiser saw.
        prediction: [B, C, H, W], what it put out, after guidance.
        x0: [B, C, H, W], the clean estimate.
        latency_ms: Wall time of the call.
    """

    index: int
    level: NoiseLevel
    z: Tensor
    prediction: Tensor
    x0: Tensor
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """The sampler took a step.

    Attributes:
        index: 0 for the first.
        level: The level of `z` after the step.
        z: [B, C, H, W].
        x0: [B, C, H, W], the clean estimate that the step used.
        latency_ms: Wall time of the step, denoiser calls included.
    """

    index: int
    level: NoiseLevel
    z: Tensor
    x0: Tensor
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoder made images.

    Attributes:
        latent: [B, C, H, W], what it was given.
        image: [B, C, H, W], nominally in [-1, 1], not clamped.
        latency_ms: Wall time.
    """

    latent: Tensor
    image: Tensor
    latency_ms: float


Event = Started | DenoiserCalled | Stepped | Decoded


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Four parts that fit together. Made by `assemble`; immutable, and re-entrant.

    Attributes:
        spec: What it was assembled from.
        conditioners: What turns texts into the denoiser's condition, by label.
        contracts: What the checkpoints promise, by stage; a stage without a contract is absent.
        warnings: Findings of the contract check that did not forbid assembly.
    """

    spec: PipelineSpec
    encoder: Encoder
    denoiser: Denoiser
    scheduler: Scheduler
    decoder: Decoder
    warnings: tuple[str, ...] = ()
    conditioners: Mapping[str, Conditioner] = field(default_factory=dict)
    contracts: Mapping[Kind, Contract] = field(default_factory=dict)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one latent at the spec's image size."""
        space, image = self.decoder.latent_space, self.spec.image
        return space.channels, image.height // space.stride, image.width // space.stride

    @torch.inference_mode()
    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        condition: Values | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """Make images.

        Args:
            n: How many.
            seed: Image i is made from `seed + i` alone, whatever the batch; None takes the spec's.
            condition: Values by name, repeated in turn over the images; None takes the spec's.
            batch: How many at once; None makes all n at once.

        Returns:
            [n, C, H, W] in [-1, 1], float32 on the CPU.
        """
        _at_least_one(n)
        images = []
        for start in range(0, n, batch or n):
            count = min(batch or n, n - start)
            events = self.trace(count, seed=seed, condition=condition, offset=start, synchronise=False)
            # One event at a time: together they hold every state of the run.
            (last,) = deque(events, maxlen=1)
            assert isinstance(last, Decoded)
            images.append(last.image.float().clamp(-1, 1).cpu())
        return torch.cat(images)

    def trace(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        condition: Values | None = None,
        offset: int = 0,
        synchronise: bool = True,
    ) -> Iterator[Event]:
        """Make one batch of images and report every event on the way.

        Args:
            n: Images in the batch.
            seed: Of image 0; None takes the spec's.
            condition: Values by name, repeated in turn over the images; None takes the spec's.
            offset: Index of the batch's first image.
            synchronise: Wait for the accelerator before a time is taken, so that latencies are true.

        Yields:
            `Started`, then for each step its `DenoiserCalled` and one `Stepped`, then `Decoded`.
        """
        _at_least_one(n)
        first = (self.spec.seed if seed is None else seed) + offset
        seeds = tuple(range(first, first + n))
        generators = [torch.Generator().manual_seed(one) for one in seeds]
        conditioners = self.conditioners.values()
        prefetch(*conditioners)
        device, dtype = placement(self.denoiser)
        clock = _Clock(device if synchronise else None)
        levels = self.scheduler.levels()
        # A sampler's state keeps at least single precision, whatever the network runs in.
        state_dtype = torch.promote_types(dtype, torch.float32)
        if self.spec.scheduler.dtype is not None:
            state_dtype = getattr(torch, self.spec.scheduler.dtype)
        noise = randn((n, *self.latent_shape), generators, device=device, dtype=state_dtype)
        z = levels.prior(noise)
        yield Started(seeds, levels, z)
        prefetch(self.denoiser)
        with held(*conditioners):
            given, null = self._conditions(condition, n, offset)
        calls = _Calls(Guidance.of(self.denoiser, given, self.spec.guidance.scale, null), dtype, clock)
        begin = clock.now_ms()
        with held(self.denoiser):
            for step in self.scheduler.trajectory(calls, z, generators):
                end = clock.now_ms()
                if step.index >= len(levels) - 1 - STEPS_AHEAD:
                    prefetch(self.decoder)
                yield from calls.drain()
                yield Stepped(step.index, step.level, step.z, step.x0, end - begin)
                z, begin = step.z, clock.now_ms()
        decoder_device, decoder_dtype = placement(self.decoder, default=(device, state_dtype))
        begin = clock.now_ms()
        with torch.no_grad():
            image = self.decoder.decode(moved(z, decoder_device, decoder_dtype))
        yield Decoded(z, image, clock.now_ms() - begin)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode images [B, C, H, W] in [-1, 1]: the codec's round trip, float32 on the CPU."""
        device, dtype = placement(self.encoder, default=(torch.device("cpu"), images.dtype))
        latent = self.encoder.encode(moved(images, device, dtype))
        device, dtype = placement(self.decoder, default=(latent.device, latent.dtype))
        return self.decoder.decode(moved(latent, device, dtype)).float().clamp(-1, 1).cpu()

    def _conditions(self, given: Values | None, n: int, offset: int) -> tuple[Condition, Condition]:
        """The condition of a batch, and what stands for none as far as the denoiser does not know it itself."""
        values = self.spec.condition if given is None else given
        guidance, size = self.spec.guidance, (self.spec.image.height, self.spec.image.width)
        condition = condition_of(self.denoiser, self.conditioners, values, range(offset, offset + n), size)
        null = {} if guidance.scale == 1.0 else negative_of(self.conditioners, guidance.negative, n, size)
        return self._placed(condition), self._placed(null)

    def _placed(self, condition: Condition) -> Condition:
        """Where the denoiser is, and in its floating-point type."""
        device, dtype = placement(self.denoiser)
        return {
            name: moved(value, device, dtype if value.is_floating_point() else None)
            for name, value in condition.items()
        }


def placement(
    module: nn.Module, default: tuple[torch.device, torch.dtype] = (torch.device("cpu"), torch.float32)
) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point dtype in which a component runs; the default for one that has no tensors.

    Args:
        module: The component.
        default: (device, dtype) when it has none.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return running_device(module) or tensor.device, tensor.dtype
    return default


def _at_least_one(n: int) -> None:
    if n < 1:
        raise SpecError(f"cannot make {n} images; ask for at least 1")


class _Calls:
    """The `denoise` that a sampler is handed; keeps a record of each call until it is drained."""

    def __init__(self, guidance: Guidance, dtype: torch.dtype, clock: _Clock) -> None:
        self._guidance, self._dtype, self._clock = guidance, dtype, clock
        self._prediction = guidance.denoiser.prediction
        self._made = 0
        self._events: list[DenoiserCalled] = []

    def __call__(self, z: Tensor, level: NoiseLevel) -> Denoised:
        begin = self._clock.now_ms()
        normalised = level.normalised()
        # Under inference mode, as in `sample`, there is nothing to switch off: that costs as much as two small kernels.
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            std = float(level.std) if level.is_single else broadcast(level.std, z)
            seen = z if level.is_normalised else z / std
            output = self._guidance(_in(seen, self._dtype), normalised)
            prediction = _in(output.prediction, z.dtype)
            x0 = to_x0(self._prediction, prediction, seen, normalised)
            variance = None if output.variance is None else _in(output.variance, z.dtype)
        elapsed = self._clock.now_ms() - begin
        self._events.append(DenoiserCalled(self._made, level, seen, prediction, x0, elapsed))
        self._made += 1
        return Denoised(x0, variance)

    def drain(self) -> Iterator[DenoiserCalled]:
        events, self._events = self._events, []
        yield from events


def _in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Even a conversion that changes nothing costs as much as a small kernel.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


class _Clock:
    """Wall time in milliseconds; waits for an accelerator first, when it is given one."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device

    def now_ms(self) -> float:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() * 1e3
