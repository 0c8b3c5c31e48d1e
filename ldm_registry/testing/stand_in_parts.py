"""Parts for a modifier under test to change: the smallest of each kind. No plugin supplies them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Condition,
    Conditioning,
    Decoder,
    Denoise,
    Denoiser,
    DenoiserOutput,
    Encoder,
    Generators,
    LatentSpace,
    NoiseLevel,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    Trained,
)
from ldm_registry.prediction import to_epsilon
from ldm_registry.vocabulary import Kind

CELL = 2
"""Pixels along one side of a latent cell."""


class StandInConfig(ComponentConfig):
    """Config of every stand-in."""

    channels: int = Field(4, ge=1, description="Channels of the latent.")
    steps: int = Field(4, ge=1, description="Steps of the sampler.")


@final
class StandInEncoder(Encoder):
    """One convolution from pixels to latents."""

    name = "stand-in"
    Config = StandInConfig
    image_channels = 3

    def __init__(self, config: StandInConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.channels, CELL)
        self.convolution = nn.Conv2d(3, config.channels, CELL, CELL)

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        """Latents of images; nothing is random here."""
        latent: Tensor = self.convolution(image)
        return latent


@final
class StandInDecoder(Decoder):
    """One convolution from latents to pixels."""

    name = "stand-in"
    Config = StandInConfig
    image_channels = 3

    def __init__(self, config: StandInConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.channels, CELL)
        self.convolution = nn.ConvTranspose2d(config.channels, 3, CELL, CELL)

    def decode(self, latent: Tensor) -> Tensor:
        """Images of latents."""
        image: Tensor = self.convolution(latent)
        return image


@final
class StandInDenoiser(Denoiser):
    """One convolution that is told the time."""

    name = "stand-in"
    Config = StandInConfig
    size_multiple = 1

    def __init__(self, config: StandInConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        self.training_schedule = trained.schedule
        self.latent_space = LatentSpace(config.channels, 1)
        self.conditioning: Mapping[str, Conditioning] = {}
        self.convolution = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """Whatever the convolution makes of it."""
        time = self.trained.network_time(level) / 1000
        told = time.to(z.device, z.dtype).reshape(-1, 1, 1, 1)
        return DenoiserOutput(torch.tanh(self.convolution(z) + told))


@final
class StandInScheduler(Scheduler):
    """A few deterministic steps (Eq. 12, Song et al. 2021)."""

    name = "stand-in"
    Config = StandInConfig

    def __init__(self, config: StandInConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.steps = config.steps
        self.schedule = schedule

    def levels(self) -> NoiseLevels:
        """Evenly spaced in time, and then none at all."""
        cleanest, noisiest = self.schedule.time_range
        times = torch.linspace(noisiest, cleanest, self.steps + 1, dtype=torch.float64, device="cpu")
        level = self.schedule.level(times[:-1])
        one = level.alpha.new_ones(1)
        return NoiseLevels(torch.cat([level.alpha, one]), torch.cat([level.sigma, 0 * one]))

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """As `Scheduler.trajectory`."""
        levels = self.levels()
        for index in range(len(levels) - 1):
            x0 = denoise(z, levels[index]).x0
            z = levels[index + 1].add_noise(x0, to_epsilon(x0, z, levels[index]))
            yield Step(index, levels[index + 1], z, x0)


PARTS: dict[Kind, type[Component]] = {
    part.kind: part for part in (StandInEncoder, StandInDenoiser, StandInScheduler, StandInDecoder)
}
