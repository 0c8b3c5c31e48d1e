"""The noise schedules of discrete diffusion: T steps, variance preserving.

Their names and defaults are those of diffusers' `beta_schedule`. Beware of the names: what latent-diffusion
and ComfyUI call "linear" is `scaled_linear` here, and their "sqrt_linear" is `linear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ldm_registry.interfaces import ComponentConfig, NoiseLevel, NoiseSchedule
from ldm_registry.vocabulary import Scaling
from ldm_schedulers import tables


class TableConfig(ComponentConfig):
    """What every discrete schedule takes."""

    rescale_zero_snr: bool = Field(
        default=False, description="rescale so that the last step holds no signal (Lin et al. 2024)"
    )
    terminal_alpha_bar: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="alpha**2 of the last step in place of its own; after the rescale diffusers' Euler has 2**-24",
    )
    interpolation: Literal["log_linear", "linear"] = Field(
        default="log_linear",
        description="what is linear in time between two steps: log(sigma / alpha), or sigma / alpha itself",
    )


class StepsConfig(TableConfig):
    """What every discrete schedule with a formula for its betas takes."""

    steps: int = Field(default=1000, ge=2, le=1_000_000, description="T, the number of training steps")


class BetaRangeConfig(StepsConfig):
    """A schedule between two betas."""

    beta_start: float = Field(default=0.0001, gt=0, lt=1, description="beta of the first step, in (0, 1)")
    beta_end: float = Field(default=0.02, gt=0, lt=1, description="beta of the last step, in (0, 1)")


class SquaredCosConfig(StepsConfig):
    """The squared-cosine schedule."""

    max_beta: float = Field(default=0.999, gt=0, lt=1, description="cap on every beta, in (0, 1)")


class TrainedBetasConfig(TableConfig):
    """A schedule that is given by its betas."""

    betas: tuple[float, ...] = Field(
        min_length=2,
        max_length=1_000_000,
        description="beta of each step, in (0, 1); the last may be 1, which leaves no signal",
    )

    @model_validator(mode="after")
    def _betas_are_variances(self) -> TrainedBetasConfig:
        inner, last = self.betas[:-1], self.betas[-1]
        if not (all(0 < beta < 1 for beta in inner) and 0 < last <= 1):
            raise ValueError("every beta has to lie in (0, 1); only the last may be 1")
        return self


def _table(betas: Tensor, config: TableConfig) -> tables.StepTable:
    """The levels of betas [T] as a config wants them."""
    log_ratio = tables.log_ratios(
        betas, rescale_zero_snr=config.rescale_zero_snr, terminal_alpha_bar=config.terminal_alpha_bar
    )
    return tables.StepTable(log_ratio, linear=config.interpolation == "linear")


@final
class LinearSchedule(NoiseSchedule):
    """Betas rise linearly (DDPM, Ho et al. 2020)."""

    name = "linear"
    Config = BetaRangeConfig
    config: BetaRangeConfig
    scaling = Scaling.VP

    def __init__(self, config: BetaRangeConfig) -> None:
        super().__init__()
        self.config = config
        betas = tables.linear_betas(config.beta_start, config.beta_end, config.steps)
        self.table = _table(betas, config)
        self.steps = self.table.steps
        self.time_range = (0.0, self.table.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, T - 1], any shape, in float64."""
        return self.table.level(time)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64; whole steps come back exactly."""
        return self.table.time(level)


@final
class ScaledLinearSchedule(NoiseSchedule):
    """The square roots of the betas rise linearly (latent diffusion, where it is called "linear")."""

    name = "scaled_linear"
    Config = BetaRangeConfig
    config: BetaRangeConfig
    scaling = Scaling.VP

    def __init__(self, config: BetaRangeConfig) -> None:
        super().__init__()
        self.config = config
        betas = tables.scaled_linear_betas(config.beta_start, config.beta_end, config.steps)
        self.table = _table(betas, config)
        self.steps = self.table.steps
        self.time_range = (0.0, self.table.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, T - 1], any shape, in float64."""
        return self.table.level(time)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64; whole steps come back exactly."""
        return self.table.time(level)


@final
class SquaredCosSchedule(NoiseSchedule):
    """The cumulative signal falls as a squared cosine (Eq. 17, Nichol and Dhariwal 2021)."""

    name = "squaredcos_cap_v2"
    Config = SquaredCosConfig
    config: SquaredCosConfig
    scaling = Scaling.VP

    def __init__(self, config: SquaredCosConfig) -> None:
        super().__init__()
        self.config = config
        betas = tables.alpha_bar_betas(tables.squared_cosine, config.steps, config.max_beta)
        self.table = _table(betas, config)
        self.steps = self.table.steps
        self.time_range = (0.0, self.table.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, T - 1], any shape, in float64."""
        return self.table.level(time)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64; whole steps come back exactly."""
        return self.table.time(level)


@final
class SigmoidSchedule(NoiseSchedule):
    """Betas rise along a sigmoid (GeoDiff, Xu et al. 2022)."""

    name = "sigmoid"
    Config = BetaRangeConfig
    config: BetaRangeConfig
    scaling = Scaling.VP

    def __init__(self, config: BetaRangeConfig) -> None:
        super().__init__()
        self.config = config
        betas = tables.sigmoid_betas(config.beta_start, config.beta_end, config.steps)
        self.table = _table(betas, config)
        self.steps = self.table.steps
        self.time_range = (0.0, self.table.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, T - 1], any shape, in float64."""
        return self.table.level(time)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64; whole steps come back exactly."""
        return self.table.time(level)


@final
class TrainedBetasSchedule(NoiseSchedule):
    """Betas that are listed one by one."""

    name = "trained_betas"
    Config = TrainedBetasConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {"betas": (0.1, 0.2, 0.3)}
    config: TrainedBetasConfig
    scaling = Scaling.VP

    def __init__(self, config: TrainedBetasConfig) -> None:
        super().__init__()
        self.config = config
        betas = torch.tensor(config.betas, **tables.DOUBLE)
        self.table = _table(betas, config)
        self.steps = self.table.steps
        self.time_range = (0.0, self.table.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in [0, T - 1], any shape, in float64."""
        return self.table.level(time)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64; whole steps come back exactly."""
        return self.table.time(level)
