"""HeunDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, predictions, schedules, spacings

if TYPE_CHECKING:
    from ldm_schedulers.heun import HeunConfig

NAME: Final = "HeunDiscreteScheduler"
BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")


class HeunKeys(keys.SigmaKeys, keys.TrainingKeys):
    """The keys of the class and their defaults."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample: bool = False
    clip_sample_range: float = Field(default=1.0, gt=0)


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(HeunKeys, NAME, values)
    spaced = spacings.sigma_spacing_of(said)
    placed = bool(spaced) and said.timestep_spacing == "linspace"
    config = {
        **spaced,
        **({} if placed else spacings.spacing_of(said)),
        **({"sigma_ends": "spacing"} if spaced and not placed else {}),
        **({"clip": said.clip_sample_range} if said.clip_sample else {}),
        **spacings.prior_of(said),
    }
    linear = said.timestep_spacing == "linspace" and not spaced
    return SchedulerReading(
        config=config,
        schedule=schedules.schedule_of(said, linear=linear),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=spacings.spacing_differences(said),
    )


def write_config(config: HeunConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    handled = ("spacing", "steps_offset", "prior", "clip", *spacings.SPACED_FIELDS)
    problems = [*spacings.leftovers(config, handled), *spacings.interpolated(config, trained, steps)]
    values = {
        **schedules.betas_of(trained.schedule, BETAS, problems, rescalable=False),
        **_placed(config, trained, steps, problems),
        **spacings.sigma_keys(config),
        "prediction_type": predictions.name_of(trained.prediction, PREDICTIONS, problems),
        "clip_sample": config.clip is not None,
        **({} if config.clip is None else {"clip_sample_range": config.clip}),
    }
    return keys.write(HeunKeys, NAME, values, problems)


def _placed(config: HeunConfig, trained: Trained, steps: int, problems: list[str]) -> dict[str, Any]:
    """The keys that place the levels."""
    if config.sigma_spacing == "none" or config.sigma_ends == "spacing":
        problems += spacings.prior_problems(config)
        return spacings.spacing_keys(config, trained.schedule, steps, problems)
    if config.prior != "noise":
        problems.append("prior: marginal with sigma_ends: schedule; diffusers has prior: noise there")
    if steps == 1:
        problems.append("1 step starts at time 0 in diffusers")
    return {"timestep_spacing": "linspace"}
