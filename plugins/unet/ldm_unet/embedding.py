"""How a UNet is told the time: sinusoids, random Fourier features or a learned table, then two layers."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_MAX_PERIOD = 10_000.0
_FOURIER_SCALE = 16.0


@final
class Sinusoids(nn.Module):
    """Cosines and sines of time at geometrically falling frequencies (section 3.5, Vaswani et al. 2017).

    The tables are plain tensors: a cast of the module to a short type must not round the frequencies.

    Args:
        channels: Features put out; an odd last one is zero.
        freq_shift: `frequency_k = 10000 ** (-k / (half - shift))`.
        flip_sin_to_cos: Cosines before sines.
    """

    def __init__(self, channels: int, freq_shift: int | float, flip_sin_to_cos: bool) -> None:
        super().__init__()
        self.channels = channels
        self.cosine_first = flip_sin_to_cos
        half = channels // 2
        # Rounded to float32 step by step, as in the tables that checkpoints were trained with.
        single = torch.arange(half, dtype=torch.float32, device="cpu")
        double = torch.arange(half, dtype=torch.float64, device="cpu")
        self._single = torch.exp(-math.log(_MAX_PERIOD) * single / (half - freq_shift))
        self._double = torch.exp(-math.log(_MAX_PERIOD) * double / (half - freq_shift))

    @property
    def features(self) -> int:
        """Channels put out."""
        return self.channels

    def forward(self, time: Float[Tensor, " t"], like: Tensor) -> Float[Tensor, "t k"]:
        """Expand [T] to [T, channels] where `time` lives: in float64 for a float64 network, else in float32.

        Args:
            time: Any real numbers.
            like: Gives device and dtype of the result.
        """
        table = (self._double if like.dtype == torch.float64 else self._single).to(time.device)
        angle = time[:, None].to(table.dtype) * table
        halves = (angle.cos(), angle.sin()) if self.cosine_first else (angle.sin(), angle.cos())
        features = torch.cat(halves, dim=1)
        if self.channels % 2:
            features = F.pad(features, (0, 1))
        return features.to(like.device, like.dtype, non_blocking=True)


@final
class FourierFeatures(nn.Module):
    """Sines and cosines of the logarithm of time at random frequencies (Tancik et al. 2020, Song et al. 2021).

    Args:
        channels: Frequencies; twice as many features come out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_FOURIER_SCALE * torch.randn(channels), requires_grad=False)

    @property
    def features(self) -> int:
        """Channels put out."""
        return 2 * self.weight.numel()

    def forward(self, time: Float[Tensor, " t"], like: Tensor) -> Float[Tensor, "t k"]:
        """Expand [T] to [T, 2 * channels].

        Args:
            time: Positive.
            like: Gives device and dtype of the result.
        """
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        log_time = time.to(like.device, dtype, non_blocking=True).log()
        angle = log_time[:, None] * self.weight.to(dtype) * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=1).to(like.dtype)


@final
class LearnedTimes(nn.Module):
    """A learned vector for each training step, interpolated between steps.

    Args:
        steps: T.
        channels: Features put out.
    """

    def __init__(self, steps: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(steps, channels))

    @property
    def features(self) -> int:
        """Channels put out."""
        return self.weight.shape[1]

    def forward(self, time: Float[Tensor, " t"], like: Tensor) -> Float[Tensor, "t k"]:
        """Rows [T, channels]; an integer time gives its row exactly.

        Args:
            time: Steps, clamped to 0 ... T - 1.
            like: Gives device and dtype of the result.
        """
        time = time.clamp(0, self.weight.shape[0] - 1)
        below = time.floor()
        weight = (time - below)[:, None].to(like.device, like.dtype, non_blocking=True)
        low = self.weight[below.to(like.device, torch.int64, non_blocking=True)]
        high = self.weight[time.ceil().to(like.device, torch.int64, non_blocking=True)]
        return torch.lerp(low, high, weight)


TimeProjection = Sinusoids | FourierFeatures | LearnedTimes


@final
class TimestepEmbedding(nn.Module):
    """Two linear layers from time features to the time embedding.

    Args:
        features: Channels in.
        width: Channels out.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "t k"]) -> Float[Tensor, "t d"]:
        """[T, features] to [T, width]."""
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return embedding
