"""FlowMatchEulerDiscreteScheduler and FlowMatchHeunDiscreteScheduler.

Their own levels run from sigma 1 to that of time 1 / T, and a static shift is applied to both ends and then to all
levels, so that the clean end goes through it twice. Pipelines that hand the scheduler their own `sigmas` (Flux:
`linspace(1, 1 / N, N)`) want `spacing: trailing` in place of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, model_validator

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_registry.vocabulary import Prediction
from ldm_schedulers.diffusers import keys, spacings
from ldm_schedulers.estimate import SamplerConfig

if TYPE_CHECKING:
    from ldm_schedulers.euler import FlowEulerConfig
    from ldm_schedulers.heun import FlowHeunConfig

EULER: Final = "FlowMatchEulerDiscreteScheduler"
HEUN: Final = "FlowMatchHeunDiscreteScheduler"


class FlowHeunKeys(keys.Keys):
    """The keys of FlowMatchHeunDiscreteScheduler and their defaults."""

    num_train_timesteps: int = Field(default=1000, ge=2)
    shift: float = Field(default=1.0, gt=0)


class FlowEulerKeys(keys.SigmaKeys, FlowHeunKeys):
    """The keys of FlowMatchEulerDiscreteScheduler and their defaults."""

    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = Field(default=256, ge=1)
    max_image_seq_len: int = Field(default=4096, ge=1)
    invert_sigmas: Literal[False] = False
    shift_terminal: float | None = Field(default=None, ge=0, lt=1)
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: bool = False

    @model_validator(mode="after")
    def _both_shifts(self) -> FlowEulerKeys:
        if self.use_dynamic_shifting and (self.base_shift is None or self.max_shift is None):
            raise ValueError("use_dynamic_shifting needs base_shift and max_shift")
        return self


def read_euler(values: Mapping[str, Any]) -> SchedulerReading:
    """What the config of a FlowMatchEulerDiscreteScheduler says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(FlowEulerKeys, EULER, values)
    spaced = spacings.sigma_spacing_of(said)
    config = {
        **_ends(said, 1.0 if said.use_dynamic_shifting else said.shift),
        **(_dynamic(said) if said.use_dynamic_shifting else {"shift": said.shift}),
        **({"shift_terminal": said.shift_terminal} if said.shift_terminal else {}),
        **({**spaced, "sigma_ends": "spacing", "sigma_axis": "fraction"} if spaced else {}),
        **({"stochastic_sampling": True} if said.stochastic_sampling else {}),
    }
    return _reading(said, config, notes)


def read_heun(values: Mapping[str, Any]) -> SchedulerReading:
    """What the config of a FlowMatchHeunDiscreteScheduler says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(FlowHeunKeys, HEUN, values)
    return _reading(said, {**_ends(said, said.shift), "shift": said.shift}, notes)


def _ends(said: FlowHeunKeys, shift: float) -> dict[str, Any]:
    """Evenly spaced from no signal to the shifted time 1 / T, before all levels are shifted."""
    return {"spacing": "linspace", "sigma_min": shift / (said.num_train_timesteps - 1)}


def _dynamic(said: FlowEulerKeys) -> dict[str, Any]:
    return {
        "dynamic_shift": said.time_shift_type,
        "base_shift": said.base_shift,
        "max_shift": said.max_shift,
        "base_image_seq_len": said.base_image_seq_len,
        "max_image_seq_len": said.max_image_seq_len,
    }


def _reading(said: FlowHeunKeys, config: dict[str, Any], notes: tuple[str, ...]) -> SchedulerReading:
    return SchedulerReading(
        config=config,
        schedule={"name": "rectified_flow"},
        prediction=Prediction.VELOCITY,
        time_scale=float(said.num_train_timesteps),
        defaults=notes,
    )


def write_euler(config: FlowEulerConfig, trained: Trained) -> dict[str, Any]:
    """The FlowMatchEulerDiscreteScheduler that takes the same steps; see `ForeignScheduler.to_diffusers`."""
    moved = ("shift", "dynamic_shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
    handled = ("spacing", "sigma_min", *moved, "shift_terminal", *spacings.SPACED_FIELDS, "sigma_axis")
    problems = [*spacings.leftovers(config, handled), *_problems(config, trained)]
    if config.sigma_spacing != "none" and (config.sigma_ends, config.sigma_axis) != ("spacing", "fraction"):
        problems.append(
            "sigma_spacing of a flow has sigma_ends: spacing and sigma_axis: fraction in diffusers"
        )
    values: dict[str, Any] = {
        "num_train_timesteps": round(trained.time_scale),
        "shift": config.shift,
        "shift_terminal": config.shift_terminal,
        "stochastic_sampling": config.stochastic_sampling,
        **spacings.sigma_keys(config),
    }
    if config.dynamic_shift != "none":
        values |= {"use_dynamic_shifting": True, "time_shift_type": config.dynamic_shift}
        values |= {name: getattr(config, name) for name in moved[2:]}
    return keys.write(FlowEulerKeys, EULER, values, problems)


def write_heun(config: FlowHeunConfig, trained: Trained) -> dict[str, Any]:
    """The FlowMatchHeunDiscreteScheduler that takes the same steps; see `ForeignScheduler.to_diffusers`."""
    problems = [*spacings.leftovers(config, ("spacing", "sigma_min", "shift")), *_problems(config, trained)]
    values = {"num_train_timesteps": round(trained.time_scale), "shift": config.shift}
    return keys.write(FlowHeunKeys, HEUN, values, problems)


def _problems(config: SamplerConfig, trained: Trained) -> list[str]:
    """What keeps diffusers from the same levels."""
    problems = []
    schedule, scale = trained.schedule, trained.time_scale
    if schedule.name != "rectified_flow" or schedule.config.model_dump().get("shift") != 1.0:
        problems.append("the noise schedule has to be rectified_flow with shift 1")
    if trained.prediction is not Prediction.VELOCITY:
        problems.append(f"the denoiser's prediction is {trained.prediction}; expected velocity")
    if scale != round(scale) or scale < 2:
        problems.append(f"the network is fed {scale} * time; diffusers takes a whole number above 1")
        return problems
    clean = config.shift / (scale - 1.0)
    evenly = config.spacing == "linspace" and config.sigma_min is not None
    if not evenly or not math.isclose(config.sigma_min or 0.0, clean, rel_tol=1e-9):
        problems.append(
            f"diffusers' own levels are spacing: linspace with sigma_min {clean!r}, its shift over T - 1; others are "
            "handed to it as `sigmas`"
        )
    return problems
