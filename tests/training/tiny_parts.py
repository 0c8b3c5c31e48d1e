"""A trainable codec with training state of its own, and a denoiser that is fitted; a module that plugins would hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
import toy_plugin
from pydantic import Field
from torch import Tensor, nn

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Condition,
    Decoder,
    Denoiser,
    DenoiserOutput,
    Encoder,
    Generators,
    LatentSpace,
    NoiseLevel,
    Trained,
    randn,
)
from ldm_registry.trainable import DecoderOutput, EncoderOutput
from ldm_registry.vocabulary import Prediction

STRIDE = 4


class TinyConfig(ComponentConfig):
    channels: int = Field(2, ge=1, description="Channels of the latent.")
    mean: tuple[float, ...] = Field((0.0, 0.0), description="Subtracted, per channel.")
    std: tuple[float, ...] = Field((1.0, 1.0), description="Divided by, per channel.")


@final
class TinyEncoder(Encoder):
    name = "tiny-codec"
    Config = TinyConfig
    sibling_prefixes = ("decoder.", "seen")

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.channels, STRIDE)
        self.image_channels = 3
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, STRIDE, STRIDE), nn.SiLU(), nn.Conv2d(16, config.channels, 1)
        )
        self.encoder_dropout = nn.Dropout(0.1)

    def _normalised(self, raw: Tensor) -> Tensor:
        mean = torch.tensor(self.config.mean, dtype=raw.dtype).reshape(-1, 1, 1)
        std = torch.tensor(self.config.std, dtype=raw.dtype).reshape(-1, 1, 1)
        return (raw - mean) / std

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        return self._normalised(self.encoder(image))

    def forward(self, image: Tensor, generator: Generators | None = None) -> EncoderOutput:
        raw = self.encoder_dropout(self.encoder(image))
        noise = randn(raw.shape, generator, dtype=raw.dtype)
        return EncoderOutput(self._normalised(raw + 0.1 * noise), {"kl_nats": raw.square().mean()})

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> TinyConfig:
        old = self.config
        return TinyConfig(
            channels=old.channels,
            mean=tuple(m0 + s0 * m for m0, s0, m in zip(old.mean, old.std, mean, strict=True)),
            std=tuple(s0 * s for s0, s in zip(old.std, std, strict=True)),
        )


@final
class TinyDecoder(Decoder):
    name = "tiny-codec"
    Config = TinyConfig
    sibling_prefixes = ("encoder.",)

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.channels, STRIDE)
        self.image_channels = 3
        self.decoder = nn.ConvTranspose2d(config.channels, 3, STRIDE, STRIDE)
        self.running: Tensor | None = None

    def decode(self, latent: Tensor) -> Tensor:
        mean = torch.tensor(self.config.mean, dtype=latent.dtype).reshape(-1, 1, 1)
        std = torch.tensor(self.config.std, dtype=latent.dtype).reshape(-1, 1, 1)
        return self.decoder(latent * std + mean)

    def forward(self, latent: Tensor) -> DecoderOutput:
        energy = latent.square().mean()
        if self.training:
            # Enters the loss, so a resume that forgot it would end elsewhere.
            before = torch.zeros(()) if self.running is None else self.running
            self.running = 0.9 * before + energy.detach()
            energy = energy * self.running
        return DecoderOutput(
            self.decode(latent), {"commitment": energy}, {"perplexity": 3.5, "dead_codes": 2.0}
        )

    def training_state(self) -> dict[str, Tensor]:
        return {} if self.running is None else {"running": self.running}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        self.running = state["running"]


class MeanConfig(ComponentConfig):
    channels: int = Field(2, ge=1, description="Channels of the latent.")
    size: int = Field(1, ge=1, description="Values in the mean along each side.")


@final
class MeanDenoiser(Denoiser):
    """Answers with the mean of what it was fitted to."""

    name = "tiny-mean"
    Config = MeanConfig
    prediction = Prediction.X0
    training_schedule = None
    size_multiple = 1

    def __init__(self, config: MeanConfig, trained: Trained | None = None) -> None:
        super().__init__()
        self.config = config
        self.conditioning = {}
        self.latent_space = LatentSpace(config.channels, 1)
        self.register_buffer("mean", torch.zeros(config.channels, config.size, config.size))

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        return DenoiserOutput(self.mean.expand_as(z))

    def fit(self, latents: Tensor, condition: Condition) -> MeanConfig:
        self.mean = latents.mean(0)
        return MeanConfig(channels=latents.shape[1], size=latents.shape[2])


@hookimpl
def register_components() -> list[type[Component]]:
    return [
        TinyEncoder,
        TinyDecoder,
        MeanDenoiser,
        toy_plugin.ToyDenoiser,
        toy_plugin.ToyScheduler,
        toy_plugin.ToySchedule,
    ]
