"""What the tests of this plugin share: a small noise schedule of their own and weights that are random everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import pytest
import torch
from ldm_unet import UNet, UNetConfig
from torch import Tensor, nn

from ldm_registry.interfaces import ComponentConfig, NoiseLevel, NoiseSchedule, Trained
from ldm_registry.vocabulary import Prediction, Scaling


@final
class QuarterTurn(NoiseSchedule):
    """`alpha = cos`, `sigma = sin` of an angle that grows by equal steps from 0 at step 0 to 89.9 degrees."""

    name = "quarter_turn"
    Config = ComponentConfig

    def __init__(self) -> None:
        super().__init__()
        self.scaling = Scaling.VP
        self.steps = 1000
        self.time_range = (0.0, 999.0)

    def level(self, time: Tensor) -> NoiseLevel:
        angle = time.double() * math.pi / 2000
        return NoiseLevel(angle.cos(), angle.sin())

    def time(self, level: NoiseLevel) -> Tensor:
        time = torch.atan2(level.sigma, level.alpha) * 2000 / math.pi
        return torch.where((time - time.round()).abs() < 1e-9, time.round(), time).clamp(0.0, 999.0)


@pytest.fixture
def trained() -> Trained:
    return Trained(Prediction.EPSILON, QuarterTurn())


@pytest.fixture
def level(trained: Trained) -> Callable[..., NoiseLevel]:
    """`level(t)` or `level(t0, t1, ...)`: one level, or one for each sample."""

    def at(*time: float) -> NoiseLevel:
        return trained.schedule.level(torch.tensor(time if len(time) > 1 else time[0], dtype=torch.float64))

    return at


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew, those that start at zero included, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        std = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


@pytest.fixture
def build(trained: Trained) -> Callable[..., UNet]:
    """A small UNet in evaluation mode with random weights; keywords go to its config."""

    def make(**config: object) -> UNet:
        small = {
            "block_out_channels": (16, 32),
            "norm_num_groups": 8,
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        network = UNet(UNetConfig.model_validate(small | config), trained).eval()
        randomise(network)
        return network

    return make
