"""LMSDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, predictions, schedules, spacings

if TYPE_CHECKING:
    from ldm_schedulers.lms import LMSConfig

NAME: Final = "LMSDiscreteScheduler"
BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")
_ORDER: Final = 4
"""An argument of diffusers' step, of which this is the default; it has no key."""


class LMSKeys(keys.SigmaKeys, keys.DiscreteKeys):
    """The keys of the class and their defaults."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(LMSKeys, NAME, values)
    spaced, even = spacings.sigma_spacing_of(said), said.timestep_spacing == "linspace"
    config = {
        **spaced,
        **({} if spaced and even else spacings.spacing_of(said)),
        **({"sigma_ends": "spacing"} if spaced and not even else {}),
        **spacings.prior_of(said),
        "order": _ORDER,
    }
    return SchedulerReading(
        config=config,
        schedule=schedules.schedule_of(said, linear=even and not spaced),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=spacings.spacing_differences(said),
    )


def write_config(config: LMSConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    handled = ("spacing", "steps_offset", "prior", *spacings.SPACED_FIELDS)
    problems = [*spacings.leftovers(config, handled), *spacings.interpolated(config, trained, steps)]
    if config.order != _ORDER:
        problems.append(f"order: {config.order} is an argument of diffusers' step; its default is {_ORDER}")
    values = {
        **schedules.betas_of(trained.schedule, BETAS, problems, rescalable=False),
        **_placed(config, trained, steps, problems),
        **spacings.sigma_keys(config),
        "prediction_type": predictions.name_of(trained.prediction, PREDICTIONS, problems),
    }
    return keys.write(LMSKeys, NAME, values, problems)


def _placed(config: LMSConfig, trained: Trained, steps: int, problems: list[str]) -> dict[str, Any]:
    """The keys that place the levels."""
    if config.sigma_spacing == "none" or config.sigma_ends == "spacing":
        problems += spacings.prior_problems(config)
        return spacings.spacing_keys(config, trained.schedule, steps, problems)
    if config.prior != "noise":
        problems.append("prior: marginal with sigma_ends: schedule; diffusers has prior: noise there")
    if steps == 1:
        problems.append("1 step starts at time 0 in diffusers")
    return {"timestep_spacing": "linspace"}
