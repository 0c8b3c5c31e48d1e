"""The smallest healthy plugin: one component of each kind, for the core's own tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from ldm_registry.hookspecs import hookimpl
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
from ldm_registry.vocabulary import Scaling


class CodecConfig(ComponentConfig):
    channels: int = Field(3, ge=1, description="Channels of the image.")
    latent_channels: int = Field(4, ge=1, description="Channels of the latent.")
    stride: int = Field(4, ge=1, description="Pixels per latent cell.")


@final
class ToyEncoder(Encoder):
    name = "toy-codec"
    Config = CodecConfig
    sibling_prefixes = ("decoder.",)

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.latent_channels, config.stride)
        self.image_channels = config.channels
        self.encoder = nn.Conv2d(config.channels, config.latent_channels, config.stride, config.stride)

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        return self.encoder(image)


@final
class ToyDecoder(Decoder):
    name = "toy-codec"
    Config = CodecConfig
    sibling_prefixes = ("encoder.",)

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.latent_channels, config.stride)
        self.image_channels = config.channels
        self.decoder = nn.ConvTranspose2d(
            config.latent_channels, config.channels, config.stride, config.stride
        )

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)


class DenoiserConfig(ComponentConfig):
    channels: int = Field(4, ge=1, description="Channels of the latent.")
    classes: int = Field(3, ge=1, description="Number of classes.")


@final
class ToyDenoiser(Denoiser):
    name = "toy-denoiser"
    Config = DenoiserConfig
    size_multiple = 2

    def __init__(self, config: DenoiserConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        self.training_schedule = trained.schedule
        self.latent_space = LatentSpace(config.channels, 1)
        self.conditioning = {"class_label": Conditioning(classes=config.classes, null=config.classes)}
        self.mix = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.embed = nn.Embedding(config.classes + 1, config.channels)

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        label = condition.get("class_label", torch.full((len(z),), self.config.classes, device=z.device))
        time = self.trained.network_time(level).to(z.device, z.dtype).reshape(-1, 1, 1, 1)
        return DenoiserOutput(self.mix(torch.tanh(z + time)) + self.embed(label)[:, :, None, None])


class ScheduleConfig(ComponentConfig):
    steps: int = Field(1000, ge=2, description="T.")
    cleanest_nats: float = Field(8.0, description="log-SNR at step 0.")
    noisiest_nats: float = Field(-8.0, description="log-SNR at step T - 1.")


@final
class ToySchedule(NoiseSchedule):
    name = "toy_schedule"
    Config = ScheduleConfig
    scaling = Scaling.VP

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        self.config = config
        self.steps = config.steps
        self.time_range = (0.0, config.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        clean, noisy = self.config.cleanest_nats, self.config.noisiest_nats
        share = time.to(torch.float64) / (self.config.steps - 1)
        return NoiseLevel.at(clean + (noisy - clean) * share, self.scaling)

    def time(self, level: NoiseLevel) -> Tensor:
        clean, noisy = self.config.cleanest_nats, self.config.noisiest_nats
        share = (level.log_snr - clean) / (noisy - clean)
        return (share.clamp(0, 1) * (self.config.steps - 1)).round(decimals=9)


class SamplerConfig(ComponentConfig):
    steps: int = Field(4, ge=1, description="Number of steps.")


@final
class ToyScheduler(Scheduler):
    name = "toy-scheduler"
    Config = SamplerConfig

    def __init__(self, config: SamplerConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.schedule = schedule
        self.tokens = tokens

    def levels(self) -> NoiseLevels:
        low, high = self.schedule.time_range
        level = self.schedule.level(torch.linspace(high, low, self.config.steps, dtype=torch.float64))
        end = NoiseLevel.at(torch.tensor([math.inf]), self.schedule.scaling)
        return NoiseLevels(torch.cat([level.alpha, end.alpha]), torch.cat([level.sigma, end.sigma]))

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        levels = self.levels()
        for index in range(len(levels) - 1):
            x0 = denoise(z, levels[index]).x0
            z = levels[index + 1].add_noise(x0, to_epsilon(x0, z, levels[index]))
            yield Step(index, levels[index + 1], z, x0)


@hookimpl
def register_components() -> list[type[Component]]:
    return [ToyEncoder, ToyDecoder, ToyDenoiser, ToyScheduler, ToySchedule]
