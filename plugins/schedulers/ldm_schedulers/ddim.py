"""DDIM: deterministic by default, as stochastic as DDPM with eta 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

from pydantic import Field
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import (
    Denoise,
    Generators,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    Trained,
)
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import spacing
from ldm_schedulers.ancestral import moves, noised
from ldm_schedulers.diffusers import ddim
from ldm_schedulers.estimate import SamplerConfig, at_least_float32, limited


class DDIMConfig(SamplerConfig):
    """DDIM over whole training steps; 50 by default."""

    round_times: bool = Field(
        default=True, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="0 deterministic ... 1 as much noise as DDPM")
    rederive_epsilon: bool = Field(
        default=True,
        description="take the noise direction from the limited clean estimate (true) or from the one before (false)",
    )


@final
class DDIM(Scheduler):
    """Eq. 12 of Song et al. 2021 (Denoising diffusion implicit models). First order.

    Starts from unit-variance marginals, which is what diffusers does too. A first level without
    signal (zero terminal SNR) works with any prediction but epsilon.
    """

    name = "ddim"
    diffusers_class = "DDIMScheduler"
    Config = DDIMConfig
    config: DDIMConfig

    def __init__(self, config: DDIMConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.stochastic = config.eta > 0
        self._levels = spacing.levels(config, schedule, tokens)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return ddim.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        return ddim.write_config(
            self.config, len(self._levels) - 1, Trained(prediction, schedule, time_scale)
        )

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        z = at_least_float32(z)
        for index, move in enumerate(moves(self._levels)):
            guess = denoise(z, self._levels[index]).x0.to(z.dtype)
            x0 = limited(guess, self.config)
            std = self.config.eta * move.posterior_std
            if self.config.rederive_epsilon:
                z = move.mean(z, x0, std)
            else:
                z = move.mean(z, guess, std) + move.next_alpha * (x0 - guess)
            if std > 0:
                z = noised(z, std, generator)
            yield Step(index, self._levels[index + 1], z, x0)
