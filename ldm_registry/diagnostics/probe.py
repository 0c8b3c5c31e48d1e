"""Latents to noise, levels to noise them to, and how many can be afforded, for all measurements of a denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.vocabulary import Kind, Scaling

WORK = 3e9
"""Parameters times cells times images that one forward pass may take; about a quarter of a second on one core."""

LARGEST_MSE = 1e9
"""Stands for every larger error, and for none at all, so that means and logarithms stay finite."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Latents that a denoiser is measured on.

    Attributes:
        latents: [N, c, h, w], float32 on the CPU.
        condition: Of them, N each.
        noise: Standard normal, of the shape of the latents.
        about: Where they come from, a phrase.
        is_corrected: Whether their statistics were corrected.
    """

    latents: Tensor
    condition: Mapping[str, Tensor]
    noise: Tensor
    about: str
    is_corrected: bool = False

    def at(self, level: NoiseLevel) -> Tensor:
        """The latents at a level, [N, c, h, w]."""
        return level.add_noise(self.latents, self.noise)

    def first(self, count: int) -> Self:
        """The first so many."""
        condition = {name: values[:count] for name, values in self.condition.items()}
        return type(self)(self.latents[:count], condition, self.noise[:count], self.about, self.is_corrected)


def affordable(subject: Subject, most: int, least: int = 4, share: float = 1.0) -> int:
    """How many images one forward pass of the denoiser can take within its share of the time.

    A function of sizes alone, so that a busy machine measures the same.

    Args:
        subject: Gives sizes.
        most: Never more than these; a third with `quick`.
        least: Never fewer than these.
        share: Of the usual time for one pass.
    """
    _, height, width = subject.pipe.latent_shape
    parameters = sum(tensor.numel() for tensor in subject.pipe.denoiser.parameters())
    count = int(share * WORK / max(parameters * height * width, 1))
    most = most // 3 if subject.quick else most
    return max(min(count, most), least)


def declared_statistics(subject: Subject) -> tuple[Tensor, Tensor]:
    """Mean and std per channel, each [c, 1, 1], of the latents that the denoiser was trained on.

    As its contract says; 0 and 1, what a denoiser expects of any encoder, where it says nothing.
    """
    contract = subject.contract(Kind.DENOISER)
    declared = contract.latent_declared if contract else None
    channels = subject.pipe.latent_shape[0]
    if declared is None or len(declared.mean) != channels:
        return torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)
    return torch.tensor(declared.mean).view(-1, 1, 1), torch.tensor(declared.std).view(-1, 1, 1)


def is_pixel_space(subject: Subject) -> bool:
    """Whether the denoiser works on pixels, whose range is bounded and whose std is not 1."""
    return subject.pipe.decoder.latent_space.stride == 1


def probes(subject: Subject, count: int, stream: int) -> tuple[Probe, ...]:
    """The encoder's latents, and the same with the statistics that the denoiser was trained on.

    Args:
        subject: Gives images and encoder.
        count: Images.
        stream: Of the noise.
    """
    latents = subject.latents[:count]
    condition = {name: values[:count] for name, values in subject.condition.items()}
    noise = subject.noise(latents, stream)
    plain = Probe(latents, condition, noise, "the encoder's latents")
    mean, std = declared_statistics(subject)
    if not bool(latents.isfinite().all()):
        return (plain,)
    own_std, own_mean = torch.std_mean(subject.latents, dim=(0, 2, 3), keepdim=True)
    corrected = (latents - own_mean) / own_std.clamp(min=1e-6) * std + mean
    about = "the encoder's latents, corrected to the mean and std that the denoiser expects"
    return plain, Probe(corrected, condition, noise, about, is_corrected=True)


def vp_level(log_snr: float) -> NoiseLevel:
    """The variance-preserving level of a log-SNR in nats."""
    return NoiseLevel.at(torch.tensor(log_snr, dtype=torch.float64), Scaling.VP)


def trained_range(subject: Subject) -> tuple[float, float]:
    """Lowest and highest log-SNR that the denoiser was trained on, nats; infinite for an oracle."""
    schedule = subject.pipe.denoiser.training_schedule
    if schedule is None:
        return -float("inf"), float("inf")
    ends = torch.tensor(schedule.time_range, dtype=torch.float64)
    low, high = sorted(schedule.level(ends).log_snr.tolist())
    return low, high


def within(subject: Subject, log_snrs: Sequence[float]) -> tuple[float, ...]:
    """Those log-SNRs that the denoiser was trained on, nats."""
    low, high = trained_range(subject)
    return tuple(value for value in log_snrs if low <= value <= high) or tuple(log_snrs)


def mse_per_image(made: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of each image [N], float64; `LARGEST_MSE` where it is not a number."""
    error = (made.double() - true.double()).square().flatten(1).mean(1)
    return torch.where(error.isfinite(), error, torch.full_like(error, LARGEST_MSE)).clamp(max=LARGEST_MSE)
