"""The noise of EDM (Karras et al. 2022): variance exploding, with the time that its networks are told."""

from __future__ import annotations

import math
from typing import final

from pydantic import Field, model_validator
from torch import Tensor

from ldm_registry.interfaces import ComponentConfig, NoiseLevel, NoiseSchedule
from ldm_registry.vocabulary import Scaling
from ldm_schedulers.tables import log_ratio_of, within


class EDMConfig(ComponentConfig):
    """A range of noise, in the units of the data that the network was trained on."""

    sigma_min: float = Field(
        default=0.002, gt=0, description="smallest noise, in the units of the training data"
    )
    sigma_max: float = Field(default=80.0, gt=0, description="largest noise, in the same units")
    sigma_data: float = Field(
        default=1.0,
        gt=0,
        description="standard deviation of the training data, in the same units; 0.5 for the networks of the paper",
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> EDMConfig:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} has to lie below sigma_max {self.sigma_max}")
        return self


@final
class EDMSchedule(NoiseSchedule):
    """Time is `c_noise = ln(sigma) / 4` (Table 1, Karras et al. 2022), with sigma in the units of the training data.

    Levels are in units of data with unit variance, as everywhere here: `alpha = 1`, `sigma / sigma_data`.
    """

    name = "edm"
    Config = EDMConfig
    config: EDMConfig
    scaling = Scaling.VE
    steps = None

    def __init__(self, config: EDMConfig) -> None:
        super().__init__()
        self.config = config
        self._unit = math.log(config.sigma_data)
        self.time_range = (0.25 * math.log(config.sigma_min), 0.25 * math.log(config.sigma_max))

    def level(self, time: Tensor) -> NoiseLevel:
        """The level at times in `ln(sigma_min) / 4 ... ln(sigma_max) / 4`, any shape, in float64."""
        time = within(time, self.time_range)
        return NoiseLevel.at(-2.0 * (4.0 * time - self._unit), self.scaling)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64, clamped to the range."""
        return (0.25 * (log_ratio_of(level) + self._unit)).clamp(*self.time_range)
