"""Make sure that a diagnosis leaves a pipeline, and torch's random numbers, as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ldm_registry.interfaces import Component
from ldm_registry.pipeline import Pipeline
from ldm_registry.runtime.entry import own_calls
from ldm_registry.runtime.offload import held


@contextmanager
def left_as_found(pipe: Pipeline) -> Iterator[None]:
    """In evaluation mode while the block runs; modes, `requires_grad` and random state are put back afterwards.

    Meanwhile no part runs compiled, where hooks would see nothing, and none waits elsewhere for its turn.

    Args:
        pipe: The pipeline that is looked at.
    """
    parts = _parts(pipe)
    modes = [(module, module.training) for part in parts for module in part.modules()]
    gradients = [(tensor, tensor.requires_grad) for part in parts for tensor in part.parameters()]
    try:
        with held(*parts), own_calls(*parts), torch.random.fork_rng(devices=_devices(parts)):
            for part in parts:
                part.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        for tensor, requires in gradients:
            tensor.requires_grad_(requires)


def _parts(pipe: Pipeline) -> tuple[Component, ...]:
    return pipe.encoder, pipe.denoiser, pipe.scheduler, pipe.decoder, *pipe.conditioners.values()


def _devices(parts: tuple[Component, ...]) -> list[torch.device]:
    found = {tensor.device for part in parts for tensor in part.parameters()}
    return [device for device in found if device.type == "cuda"]
