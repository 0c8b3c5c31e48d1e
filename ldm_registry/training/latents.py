"""The latents that a denoiser trains on: encoded once, kept in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.interfaces import Encoder
from ldm_registry.training.images import mirrored
from ldm_registry.training.seeds import rows_of_step, seeded
from ldm_registry.training.self_test import encoded
from ldm_registry.training.settings import DenoiserTraining


@dataclass(frozen=True, slots=True)
class Latents:
    """Latents of an image set.

    Attributes:
        values: float32 [F, N, C, H, W]; F is 2 when there are those of the mirrored images too, else 1.
        labels: int64 [N].
    """

    values: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        images: Tensor,
        labels: Tensor,
        settings: DenoiserTraining,
        device: torch.device,
    ) -> Latents:
        """Encode uint8 images [N, C, H, W] and, with `flip`, their mirror images; kept on the device."""
        seed = settings.seed if settings.latents == "sample" else None
        values = torch.empty(0)
        for index in range(1 + settings.flip):
            found = encoded(encoder, images.flip(3) if index else images, device, seed=seed)
            if not index:
                values = torch.empty(1 + settings.flip, *found.shape)
            values[index] = found
        return cls(values.to(device), labels)

    def of_step(self, settings: DenoiserTraining, step: int) -> tuple[Tensor, Tensor]:
        """Latents [accumulate x batch, C, H, W] and labels of a step, all its accumulated passes together."""
        count = settings.batch * settings.accumulate
        rows = rows_of_step(self.values.shape[1], count, settings.seed, step)
        return self.values[mirrored(count, settings, step).long(), rows], self.labels[rows]

    def flat(self) -> Tensor:
        """All of them, mirrored ones last: [F x N, C, H, W] on the CPU."""
        return self.values.flatten(0, 1).cpu()


def noise_of_step(shape: torch.Size, settings: DenoiserTraining, step: int, device: torch.device) -> Tensor:
    """Standard normal noise of a step; drawn on the device, for speed."""
    return torch.randn(shape, generator=seeded(settings.seed, "noise", step, device=device), device=device)
