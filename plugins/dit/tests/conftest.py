"""What the tests of this plugin share: a small noise schedule of their own and weights that are random everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

import pytest
import torch
from ldm_dit import DiT, DiTConfig, PixArt, PixArtConfig
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


@pytest.fixture(name="randomise")
def randomise_fixture() -> Callable[..., None]:
    return randomise


@pytest.fixture
def build(trained: Trained) -> Callable[..., DiT]:
    """A small DiT in evaluation mode with random weights; keywords go to its config."""

    def make(**config: object) -> DiT:
        small = {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "sample_size": 8,
            "num_embeds_ada_norm": 9,
        }
        network = DiT(DiTConfig.model_validate(small | config), trained).eval()
        randomise(network)
        return network

    return make


@pytest.fixture
def build_pixart(trained: Trained) -> Callable[..., PixArt]:
    """A small PixArt in evaluation mode with random weights; keywords go to its config."""

    def make(**config: object) -> PixArt:
        small = {
            "num_attention_heads": 2,
            "attention_head_dim": 6,
            "num_layers": 2,
            "sample_size": 8,
            "cross_attention_dim": 12,
            "caption_channels": 7,
            "use_additional_conditions": True,
        }
        network = PixArt(PixArtConfig.model_validate(small | config), trained).eval()
        randomise(network)
        return network

    return make


@pytest.fixture
def read() -> Callable[[PixArt, int], dict[str, Tensor]]:
    """Conditions for a batch of PixArt: five tokens of text, of which the last two are masked in every other one."""

    def make(network: PixArt, batch: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(4)
        mask = torch.ones(batch, 5, dtype=torch.bool)
        mask[::2, 3:] = False
        values: Mapping[str, Any] = {
            "text_embedding": lambda: torch.randn(
                batch, 5, network.config.text_channels or 0, generator=generator
            ),
            "text_mask": lambda: mask,
            "resolution": lambda: torch.randint(64, 1024, (batch, 2), generator=generator).float(),
            "aspect_ratio": lambda: 0.5 + torch.rand(batch, 1, generator=generator),
        }
        return {name: values[name]() for name in network.conditioning}

    return make


@pytest.fixture
def exact_time_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers expands time in float32 whatever its network computes in; for a float64 truth it must not."""
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    monkeypatch.setattr(embeddings, "get_timestep_embedding", _features_in_float64)


def _features_in_float64(
    timesteps: Tensor,
    embedding_dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    scale: float = 1.0,
) -> Tensor:
    assert flip_sin_to_cos
    half = embedding_dim // 2
    exponent = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angle = scale * timesteps.double()[:, None] * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=1)
