"""How many images at once: measured on the pipeline and the machine, not guessed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from ldm_registry.costs.repeated import held
from ldm_registry.costs.stopwatch import Stopwatch, stopwatch
from ldm_registry.errors import ResourceError
from ldm_registry.pipeline import Pipeline, Started, Stepped, placement
from ldm_registry.runtime import offload
from ldm_registry.runtime.compiled import runs_compiled
from ldm_registry.runtime.entry import own_calls
from ldm_registry.runtime.transfer import moved

LARGEST = 256
GAIN = 0.05
"""A larger batch has to make an image cheaper by this share, as it takes more memory and makes longer waits."""
PATIENCE_S = 20.0
"""After which no larger batch is tried."""
SHARE = {"cuda": 0.8}
USUAL_SHARE = 0.5
"""Of the free memory that a batch may take: on the CPU others want some too."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A batch and why.

    Attributes:
        batch: Images.
        image_ms: Estimated time of one image in it.
        working_mib: Most memory that the batch takes beside the weights; None where nothing tells.
        free_mib: What was free; None where nothing tells.
    """

    batch: int
    image_ms: float
    working_mib: float | None
    free_mib: float | None

    def __str__(self) -> str:
        memory = ""
        if self.working_mib is not None and self.free_mib is not None:
            memory = f", {self.working_mib:,.0f} of {self.free_mib:,.0f} MiB free"
        return f"{self.batch} images at once: about {self.image_ms:,.0f} ms each{memory}"


def fitting_batch(pipe: Pipeline, n: int) -> Sized:
    """The batch from which on a larger one makes images hardly cheaper, or no longer fits into memory.

    One step and one decoding are tried in batches of 1, 2, 4, ...; a part that runs compiled is tried uncompiled.

    Args:
        pipe: What will run.
        n: Images that are wanted; no batch is larger.

    Raises:
        ResourceError: There is no memory for a single image.
    """
    watch = stopwatch(_device(pipe))
    free = watch.free_mib()
    share = SHARE.get(_device(pipe).type, USUAL_SHARE)
    begin, tried = time.perf_counter(), list[Sized]()
    with ExitStack() as stack:
        parts = (pipe.denoiser, pipe.decoder, *pipe.conditioners.values())
        compiled = [part for part in parts if runs_compiled(part)]
        stack.enter_context(
            offload.held(*compiled)
        )  # else an offloaded part would run where its weights wait
        stack.enter_context(own_calls(*compiled))
        for batch in _doubled(min(n, LARGEST)):
            if tried and not _worth_trying(tried, share, time.perf_counter() - begin):
                break
            try:
                tried.append(_tried(pipe, batch, watch, free))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not tried:
                    raise ResourceError(
                        "there is not enough memory for a single image",
                        [str(error).partition("\n")[0]],
                        hint="a smaller `dtype`, `runtime: {offload: true}` or `tile:` in the spec need less",
                    ) from error
                break
    return _best(tried)


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was too little memory, on an accelerator or, as PyTorch words it, on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _worth_trying(tried: list[Sized], share: float, elapsed_s: float) -> bool:
    """Whether twice the last batch would fit, and could still be better: two in a row without a gain are enough."""
    last, best = tried[-1], _best(tried)
    would_take = 2 * (last.working_mib or 0.0)
    fits = last.free_mib is None or would_take <= share * last.free_mib
    return fits and elapsed_s < PATIENCE_S and last.batch < 4 * best.batch


def _best(tried: list[Sized]) -> Sized:
    """The last that was cheaper than the best of all smaller ones, by the least gain."""
    best = tried[0]
    for one in tried[1:]:
        if one.image_ms < (1 - GAIN) * best.image_ms:
            best = one
    return best


def _tried(pipe: Pipeline, batch: int, watch: Stopwatch, free_mib: float | None) -> Sized:
    times: list[float] = []
    memory = held(lambda: times.append(_run_ms(pipe, batch)), watch)
    if times[0] < 2e3:  # the first call also warms up
        times += [_run_ms(pipe, batch) for _ in range(2)]
    return Sized(batch, min(times) / batch, None if memory is None else memory.working_mib, free_mib)


@torch.inference_mode()
def _run_ms(pipe: Pipeline, batch: int) -> float:
    """Estimated time of a whole run: all steps like the first, and one decoding."""
    steps, latent, step_ms = 0, None, 0.0
    events = pipe.trace(batch)
    for event in events:
        if isinstance(event, Started):
            steps = len(event.levels) - 1
        elif isinstance(event, Stepped):
            latent, step_ms = event.z, event.latency_ms
            break
    del events
    if latent is None:
        return 0.0
    begin = time.perf_counter()
    pipe.decoder.decode(moved(latent, *placement(pipe.decoder, (latent.device, latent.dtype)))).cpu()
    return steps * step_ms + (time.perf_counter() - begin) * 1e3


def _device(pipe: Pipeline) -> torch.device:
    return placement(pipe.denoiser)[0]


def _doubled(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]
