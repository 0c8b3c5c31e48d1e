"""The denoiser `conv-mixer`: depthwise and pointwise convolutions in turn, told level, label and text."""

from __future__ import annotations

from typing import final

import torch
from ldm_registry.interfaces import (
    ComponentConfig,
    Condition,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    Trained,
)
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F


class DenoiserConfig(ComponentConfig):
    """How large the network is, and what it is told."""

    channels: int = Field(default=4, ge=1, description="Channels of the latent.")
    width: int = Field(default=64, ge=4, multiple_of=4, description="Channels of the hidden layers.")
    depth: int = Field(default=4, ge=1, description="Number of blocks.")
    reach: int = Field(default=5, ge=1, description="Side of the depthwise kernels, latent cells; odd.")
    classes: int = Field(default=9, ge=1, description="Number of class labels; one more stands for none.")
    text_width: int = Field(
        default=64, ge=1, description="Channels of the text embedding; zero stands for none."
    )


class Block(nn.Module):
    """Mixes cells, then channels (Trockman and Kolter 2022), each normalised and told scale and shift."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width, affine=False)
        self.tell = nn.Linear(width, 2 * width)
        self.cells = nn.Conv2d(width, width, reach, padding=reach // 2, groups=width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 1)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        """[B, width, H, W] of the same shape; `told` is [B, width]."""
        scale, shift = self.tell(told)[:, :, None, None].chunk(2, dim=1)
        mixed: Tensor = hidden + self.cells(F.silu(self.norm(hidden) * (1 + scale) + shift))
        added: Tensor = self.narrow(F.silu(self.widen(mixed)))
        return mixed + added


@final
class ConvMixerDenoiser(Denoiser):
    """A ConvMixer with adaptive normalisation; latents of any size."""

    name = "conv-mixer"
    Config = DenoiserConfig
    config: DenoiserConfig
    size_multiple = 1

    def __init__(self, config: DenoiserConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        self.training_schedule = trained.schedule
        self.latent_space = LatentSpace(config.channels, stride=1)
        self.conditioning = {
            "class_label": Conditioning(classes=config.classes, null=config.classes),
            "pooled_text_embedding": Conditioning((config.text_width,), torch.float32, optional=True),
        }
        width = config.width
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(config.classes + 1, width)
        self.text = nn.Linear(config.text_width, width, bias=False)
        self.enter = nn.Conv2d(config.channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, config.reach) for _ in range(config.depth))
        self.norm = nn.GroupNorm(4, width)
        self.leave = nn.Conv2d(width, config.channels, 3, padding=1)
        # A network that starts at zero predicts v of standard normal data exactly.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]  # it has a bias

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """What `prediction` names, of the shape of z [B, C, H, W]; a missing condition is its null."""
        label = condition.get("class_label", torch.full((len(z),), self.config.classes, device=z.device))
        told = self.time(self.waves(level).to(z.device, z.dtype)) + self.label(label)
        if "pooled_text_embedding" in condition:
            told = told + self.text(condition["pooled_text_embedding"].to(z.device, z.dtype))
        hidden = self.enter(z)
        for block in self.blocks:
            hidden = block(hidden, told)
        return DenoiserOutput(self.leave(F.silu(self.norm(hidden))))

    def waves(self, level: NoiseLevel) -> Tensor:
        """Eight sines and cosines of the time, [1 or B, 16], float64 on the CPU."""
        share = self.trained.schedule.time(level) / self.trained.schedule.time_range[1]
        angles = (
            share.reshape(-1, 1) * torch.pi * 2.0 ** torch.arange(-2, 6, dtype=torch.float64, device="cpu")
        )
        return torch.cat([angles.sin(), angles.cos()], dim=1)
