"""The noise schedules of continuous time, each with its closed form and its closed inverse.

All of them work on `log(sigma / alpha)`, which is the same number in every scaling.
"""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ldm_registry.interfaces import ComponentConfig, NoiseLevel, NoiseSchedule
from ldm_registry.vocabulary import Scaling
from ldm_schedulers.tables import log_ratio_of, within


class VPConfig(ComponentConfig):
    """The variance-preserving stochastic differential equation."""

    beta_min: float = Field(default=0.1, gt=0, description="noise rate at time 0, per unit of time")
    beta_d: float = Field(
        default=19.9, ge=0, description="rise of the noise rate over [0, 1], per unit of time"
    )
    time_min: float = Field(
        default=1e-3, ge=0, lt=1, description="cleanest time, in [0, 1); the noisiest is 1"
    )


class VEConfig(ComponentConfig):
    """Noise that grows geometrically."""

    sigma_min: float = Field(
        default=0.002, gt=0, description="noise at time 0, in standard deviations of the data"
    )
    sigma_max: float = Field(
        default=80.0, gt=0, description="noise at time 1, in standard deviations of the data"
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> VEConfig:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} has to lie below sigma_max {self.sigma_max}")
        return self


class CosineConfig(ComponentConfig):
    """The cosine schedule between two log-SNRs."""

    log_snr_min: float = Field(default=-15.0, ge=-60, description="log-SNR at time 1, nats")
    log_snr_max: float = Field(default=15.0, le=60, description="log-SNR at time 0, nats")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> CosineConfig:
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError(
                f"log_snr_min {self.log_snr_min} has to lie below log_snr_max {self.log_snr_max}"
            )
        return self


class RectifiedFlowConfig(ComponentConfig):
    """Straight lines between noise and data."""

    shift: float = Field(
        default=1.0,
        gt=0,
        description="time t stands for the noise fraction shift * t / (1 + (shift - 1) * t); 1 leaves t as it is",
    )


@final
class VPSchedule(NoiseSchedule):
    """`alpha(t) = exp(-beta_d * t**2 / 4 - beta_min * t / 2)` (Eq. 33, Song et al. 2021)."""

    name = "vp"
    Config = VPConfig
    config: VPConfig
    scaling = Scaling.VP
    steps = None

    def __init__(self, config: VPConfig) -> None:
        super().__init__()
        self.config = config
        self.time_range = (config.time_min, 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [time_min, 1], any shape, in float64."""
        time = within(time, self.time_range)
        decay = (0.5 * self.config.beta_d * time + self.config.beta_min) * time
        return NoiseLevel.at(-torch.log(torch.expm1(decay)), self.scaling)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64, clamped to the range."""
        beta_min, beta_d = self.config.beta_min, self.config.beta_d
        doubled = 2.0 * log_ratio_of(level)
        decay = torch.logaddexp(doubled, torch.zeros_like(doubled)).clamp(max=beta_d + 2.0 * beta_min)
        # The root of the quadratic in the form that loses no digits for small decay, nor for beta_d = 0.
        time = 2.0 * decay / (torch.sqrt(beta_min**2 + 2.0 * beta_d * decay) + beta_min)
        return time.clamp(*self.time_range)


@final
class VESchedule(NoiseSchedule):
    """`sigma(t) = sigma_min * (sigma_max / sigma_min)**t`, alpha = 1 (Eq. 30, Song et al. 2021).

    The default range is that of EDM (Karras et al. 2022).
    """

    name = "ve"
    Config = VEConfig
    config: VEConfig
    scaling = Scaling.VE
    steps = None
    time_range = (0.0, 1.0)

    def __init__(self, config: VEConfig) -> None:
        super().__init__()
        self.config = config
        self._low, self._high = math.log(config.sigma_min), math.log(config.sigma_max)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, 1], any shape, in float64."""
        time = within(time, self.time_range)
        return NoiseLevel.at(-2.0 * (self._low + time * (self._high - self._low)), self.scaling)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64, clamped to the range."""
        return ((log_ratio_of(level) - self._low) / (self._high - self._low)).clamp(*self.time_range)


@final
class CosineSchedule(NoiseSchedule):
    """`alpha = cos(angle)`, `sigma = sin(angle)`, the angle linear in time between two log-SNRs.

    Eq. 3 to 5 of Hoogeboom et al. 2023, after Nichol and Dhariwal 2021.
    """

    name = "cosine"
    Config = CosineConfig
    config: CosineConfig
    scaling = Scaling.VP
    steps = None
    time_range = (0.0, 1.0)

    def __init__(self, config: CosineConfig) -> None:
        super().__init__()
        self.config = config
        self._low = math.atan(math.exp(-0.5 * config.log_snr_max))
        self._high = math.atan(math.exp(-0.5 * config.log_snr_min))

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, 1], any shape, in float64."""
        angle = self._low + within(time, self.time_range) * (self._high - self._low)
        return NoiseLevel(angle.cos(), angle.sin())

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64, clamped to the range."""
        alpha, sigma = level.alpha.to("cpu", torch.float64), level.sigma.to("cpu", torch.float64)
        return ((torch.atan2(sigma, alpha) - self._low) / (self._high - self._low)).clamp(*self.time_range)


@final
class RectifiedFlowSchedule(NoiseSchedule):
    """`alpha = 1 - s`, `sigma = s` with s the shifted time (Liu et al. 2023; shift: Sec. 5.3.2, Esser et al. 2024).

    Time 0 is data without noise, time 1 noise without signal. Set the shift here where a network was trained
    with it and is fed the time before the shift; where only the sampling is shifted (Stable Diffusion 3, Flux)
    leave it at 1 and shift in the sampler.
    """

    name = "rectified_flow"
    Config = RectifiedFlowConfig
    config: RectifiedFlowConfig
    scaling = Scaling.FLOW
    steps = None
    time_range = (0.0, 1.0)

    def __init__(self, config: RectifiedFlowConfig) -> None:
        super().__init__()
        self.config = config

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, 1], any shape, in float64; both ends are exact."""
        time = within(time, self.time_range)
        shift = self.config.shift
        total = (1.0 - time) + shift * time
        return NoiseLevel((1.0 - time) / total, shift * time / total)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64, clamped to the range."""
        alpha, sigma = level.alpha.to("cpu", torch.float64), level.sigma.to("cpu", torch.float64)
        return (sigma / (sigma + self.config.shift * alpha)).clamp(*self.time_range)
