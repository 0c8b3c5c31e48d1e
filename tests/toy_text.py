"""A denoiser that reads text, and what makes text readable: for the core's tests of conditioners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Condition,
    Conditioner,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    Trained,
)


class ReaderConfig(ComponentConfig):
    channels: int = Field(4, ge=1, description="Channels of the latent.")
    width: int = Field(3, ge=1, description="Width of the text embedding.")


@final
class ToyReader(Denoiser):
    name = "toy-reader"
    Config = ReaderConfig
    size_multiple = 1

    def __init__(self, config: ReaderConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.prediction = trained.prediction
        self.training_schedule = trained.schedule
        self.latent_space = LatentSpace(config.channels, 1)
        self.conditioning = {
            "text_embedding": Conditioning(shape=(None, config.width), dtype=torch.float32),
            "size_and_crop": Conditioning(shape=(2,), dtype=torch.float32, optional=True),
        }
        self.read = nn.Linear(config.width, config.channels)

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        said = self.read(condition["text_embedding"].mean(1))
        return DenoiserOutput(torch.tanh(z + said[:, :, None, None]))


class WriterConfig(ComponentConfig):
    width: int = Field(3, ge=1, description="Width of the text embedding.")
    reads: str = Field("prompt", description="Name of the text.")


@final
class ToyWriter(Conditioner):
    """Characters as numbers, and a count of how often it was asked."""

    name = "toy-writer"
    Config = WriterConfig

    def __init__(self, config: WriterConfig, tokenizer: Path | None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.inputs = (config.reads,)
        self.outputs = {"text_embedding": Conditioning(shape=(4, config.width), dtype=torch.float32)}
        self.seen: list[list[str]] = []

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        given = list(texts[self.config.reads])
        self.seen.append(given)
        rows = [[float(ord(letter)) / 64 for letter in f"{text:4.4}"] for text in given]
        return {"text_embedding": torch.tensor(rows)[:, :, None].repeat(1, 1, self.config.width)}


class RulerConfig(ComponentConfig):
    pass


@final
class ToyRuler(Conditioner):
    name = "toy-ruler"
    Config = RulerConfig

    def __init__(self, config: RulerConfig, tokenizer: Path | None) -> None:
        super().__init__()
        self.config = config
        self.inputs = ()
        self.outputs = {"size_and_crop": Conditioning(shape=(2,), dtype=torch.float32)}

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        return {"size_and_crop": torch.tensor([size], dtype=torch.float32)}


@hookimpl
def register_components() -> list[type[Component]]:
    return [ToyReader, ToyWriter, ToyRuler]
