"""The batch of a step: which images, mirrored or not, as pixels on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_registry.data import to_unit
from ldm_registry.training.seeds import rows_of_step, seeded
from ldm_registry.training.settings import LoopSettings


def mirrored(count: int, settings: LoopSettings, step: int) -> Tensor:
    """Which samples of a step are mirrored: bool [count], each true half of the time."""
    if not settings.flip:
        return torch.zeros(count, dtype=torch.bool)
    return torch.rand(count, generator=seeded(settings.seed, "flip", step)) < 0.5


def pixels_of_step(images: Tensor, settings: LoopSettings, step: int, device: torch.device) -> Tensor:
    """The images of a step, all its accumulated passes together.

    Args:
        images: uint8 [N, C, H, W], on the training device.
        settings: Of the run.
        step: From 0.
        device: Of the result.

    Returns:
        float32 [accumulate x batch, C, H, W] in [-1, 1], channels last.
    """
    rows = rows_of_step(len(images), settings.batch * settings.accumulate, settings.seed, step)
    batch = images[rows.to(images.device)]
    flips = mirrored(len(rows), settings, step).to(images.device)
    batch = torch.where(flips[:, None, None, None], batch.flip(3), batch)
    return to_unit(batch.to(device)).contiguous(memory_format=torch.channels_last)
