"""DDPM: the reverse Markov chain, with any of the published variances."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import (
    Denoise,
    Denoised,
    Generators,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    Trained,
)
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import spacing
from ldm_schedulers.ancestral import Move, moves, noised
from ldm_schedulers.diffusers import ddpm
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, estimate

_LEAST_STD = 1e-10
"""Below it the logarithm of a variance is not worth taking; the same bound as diffusers'."""


class DDPMConfig(SamplerConfig):
    """DDPM over whole training steps; every one of them by default (1000 of a continuous schedule)."""

    round_times: bool = Field(
        default=True, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    variance: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
    ] = Field(
        default="fixed_small",
        description="variance of a step: the posterior's, the forward process's beta (`_log`: the same numbers), or "
        "the denoiser's own, either the variance itself or [-1, 1] between the two on a log scale",
    )


@final
class DDPM(Scheduler):
    """Algorithm 2 of Ho et al. 2020; learned variances: Eq. 15 of Nichol and Dhariwal 2021.

    The step to a level without noise adds none, whatever the variance. `fixed_small` is DDIM with eta 1.
    """

    name = "ddpm"
    diffusers_class = "DDPMScheduler"
    Config = DDPMConfig
    config: DDPMConfig
    stochastic = True

    def __init__(self, config: DDPMConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = spacing.levels(config, schedule, tokens, default_steps=schedule.steps or 1000)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return ddpm.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return ddpm.write_config(
            self.config, len(self._levels) - 1, Trained(prediction, schedule, time_scale)
        )

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`.

        Raises:
            ContractError: The variance is learned, and the denoiser gives none.
        """
        z = at_least_float32(z)
        for index, move in enumerate(moves(self._levels)):
            clean = estimate(denoise, z, self._levels[index], self.config)
            z = move.mean(z, clean.x0, move.posterior_std)
            if move.next_sigma > 0:
                z = noised(z, self._std(move, clean), generator)
            yield Step(index, self._levels[index + 1], z, clean.x0)

    def _std(self, move: Move, clean: Denoised) -> float | Tensor:
        match self.config.variance:
            case "fixed_small" | "fixed_small_log":
                return move.posterior_std
            case "fixed_large" | "fixed_large_log":
                return move.forward_std
        if clean.variance is None:
            raise ContractError(
                f"ddpm with variance: {self.config.variance} needs a denoiser that predicts its variance",
                ["got an output without one"],
                "use variance: fixed_small or fixed_large, or a denoiser with twice the output channels",
            )
        learned = clean.variance.to(clean.x0.dtype)
        # Variances are those of the variance-preserving state; the step's own units may differ.
        unit = math.hypot(move.next_alpha, move.next_sigma)
        if self.config.variance == "learned":
            return unit * learned.clamp(min=0.0).sqrt()
        share = 0.5 * (learned + 1.0)
        low = max(move.posterior_std / unit, _LEAST_STD)
        high = max(move.forward_std / unit, _LEAST_STD)
        return unit * low * torch.pow(high / low, share)
