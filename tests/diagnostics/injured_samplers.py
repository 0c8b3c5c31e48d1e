"""Samplers that are wrong in one way each: DDIM and its ancestral form, written out, with one line changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from ldm_registry.interfaces import (
    ComponentConfig,
    Denoise,
    Generators,
    NoiseLevel,
    NoiseLevels,
    Scheduler,
    Step,
    randn,
)
from ldm_registry.noise import NoiseLevels as Levels
from ldm_registry.vocabulary import Scaling


class InjuredConfig(ComponentConfig):
    """Nothing to set."""


@dataclass(frozen=True)
class Injury:
    """What is wrong; the defaults are right."""

    eta: float = 0.0
    noise_factor: float = 1.0
    clip: float | None = None
    shrink_x0: float = 1.0
    skipped: int | None = None
    stride: int = 1
    prior: float | None = None
    told_offset: int = 0
    told_nats: float = 0.0
    sign: float = 1.0
    history: float = 0.0
    residual: float = 0.0
    stops_early: bool = False
    signal: float = 1.0
    unsorted: bool = False
    crashes: bool = False
    kept: list[Tensor] = field(default_factory=list)


def vp_levels(steps: int = 30, cleanest: float = 6.0) -> NoiseLevels:
    log_snr = torch.cat(
        [torch.linspace(-6, cleanest, steps, dtype=torch.float64), torch.tensor([math.inf]).double()]
    )
    level = NoiseLevel.at(log_snr, Scaling.VP)
    return Levels(level.alpha, level.sigma)


@final
class Injured(Scheduler):
    """DDIM with an injury."""

    name = "injured"
    Config = InjuredConfig

    def __init__(self, injury: Injury, levels: NoiseLevels | None = None) -> None:
        super().__init__()
        self.config = InjuredConfig()
        self.injury = injury
        self._levels = levels or vp_levels()

    def levels(self) -> NoiseLevels:
        levels = self._levels
        if self.injury.stops_early:
            levels = levels[:-4]
        if self.injury.unsorted:
            order = torch.arange(len(levels))
            order[5], order[6] = 6, 5
            levels = Levels(levels.alpha[order], levels.sigma[order])
        return replace(levels, prior_std=self.injury.prior)

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        injury, levels = self.injury, self.levels()
        if injury.crashes:
            raise RuntimeError("index 50 is out of range")
        for index in range(len(levels) - 1):
            told = levels[min(index + injury.told_offset, len(levels) - 2)]
            if injury.told_nats:
                told = NoiseLevel.at(told.log_snr + injury.told_nats, Scaling.VP)
            x0 = injury.shrink_x0 * denoise(z, told).x0
            if injury.clip is not None:
                x0 = x0.clamp(-injury.clip, injury.clip)
            target = levels[index + 1]
            if index != injury.skipped:
                lands = levels[min(index + injury.stride, len(levels) - 1)]
                z = self._moved(z, x0, levels[index], lands, generator)
            if injury.history and injury.kept:
                z = z + injury.history * injury.kept[-1].mean()
            injury.kept[:] = [z]
            if index == len(levels) - 2 and injury.residual:
                z = z + injury.residual * randn(z.shape, torch.Generator().manual_seed(1), dtype=z.dtype)
            yield Step(index, target, z, x0)

    def _moved(self, z: Tensor, x0: Tensor, start: NoiseLevel, end: NoiseLevel, generator: Any) -> Tensor:
        injury = self.injury
        alpha, sigma, next_alpha, next_sigma = (
            float(value) for value in (start.alpha, start.sigma, end.alpha, end.sigma)
        )
        epsilon = (z - alpha * x0) / sigma
        ratio = min(1.0, alpha * next_sigma / (next_alpha * sigma))
        std = injury.eta * next_sigma * math.sqrt(1.0 - ratio**2)
        z = injury.signal * next_alpha * x0 + injury.sign * math.sqrt(next_sigma**2 - std**2) * epsilon
        if std:
            z = z + injury.noise_factor * std * randn(z.shape, generator, dtype=z.dtype)
        return z


INJURIES: dict[str, Injury] = {
    "clipped x0": Injury(clip=1.0),
    "x0 shrunk by a tenth": Injury(shrink_x0=0.9),
    "a step is skipped": Injury(skipped=12),
    "wrong next level": Injury(stride=2),
    "prior three times too large": Injury(prior=3.0),
    "prior at half the std": Injury(prior=0.5),
    "told the level after the state's": Injury(told_offset=1),
    "told levels half a nat too clean": Injury(told_nats=0.5),
    "noise direction flipped": Injury(sign=-1.0),
    "history kept": Injury(history=0.5),
    "residual noise": Injury(residual=0.1),
    "stops early": Injury(stops_early=True),
    "noise doubled in ancestral steps": Injury(eta=1.0, noise_factor=2.0),
    "noise forgotten in ancestral steps": Injury(eta=1.0, noise_factor=0.0),
    "signal scaled by 0.95 each step": Injury(signal=0.95),
    "levels out of order": Injury(unsorted=True),
    "crashes": Injury(crashes=True),
}
