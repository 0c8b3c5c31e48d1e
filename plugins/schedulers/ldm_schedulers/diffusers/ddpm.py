"""DDPMScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, predictions, schedules, spacings

if TYPE_CHECKING:
    from ldm_schedulers.ddpm import DDPMConfig

NAME: Final = "DDPMScheduler"
BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")

LAST_NOISE: Final = (
    "variance_type {}: diffusers adds noise in the last step too, where that does not start at time 0; ours ends "
    "without"
)
LOG_OF_LARGE: Final = (
    "variance_type fixed_large_log: diffusers takes the square root of a logarithm, which is NaN; ours is "
    "fixed_large"
)


class DDPMKeys(keys.LimitKeys, keys.DiscreteKeys):
    """The keys of the class and their defaults."""

    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
    ] = "fixed_small"
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(DDPMKeys, NAME, values)
    config = {
        **spacings.spacing_of(said),
        "variance": said.variance_type,
        **spacings.limits_of(said),
    }
    return SchedulerReading(
        config=config,
        schedule=schedules.schedule_of(said, rescale=said.rescale_betas_zero_snr),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=(*_differences(said), *spacings.spacing_differences(said)),
    )


def _differences(said: DDPMKeys) -> tuple[str, ...]:
    if said.variance_type == "fixed_large_log":
        return (LOG_OF_LARGE,)
    small = said.variance_type in ("fixed_small", "fixed_small_log")
    to_zero = said.timestep_spacing == "linspace" or (
        said.timestep_spacing == "leading" and said.steps_offset == 0
    )
    return () if small or to_zero else (LAST_NOISE.format(said.variance_type),)


def write_config(config: DDPMConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    handled = ("spacing", "steps_offset", "round_times", "clip", "threshold_ratio", "threshold_max")
    problems = [
        *spacings.leftovers(config, handled),
        *spacings.whole_times(config, trained, steps),
    ]
    if config.variance == "fixed_large_log":
        problems.append("variance: fixed_large_log is NaN in diffusers; use fixed_large, the same numbers")
    elif config.variance not in ("fixed_small", "fixed_small_log") and _last_time(config, trained, steps) > 0:
        problems.append(
            f"variance: {config.variance} adds noise in diffusers' last step, which starts above 0"
        )
    values = {
        **schedules.betas_of(trained.schedule, BETAS, problems),
        **spacings.spacing_keys(config, trained.schedule, steps, problems),
        **spacings.limit_keys(config, problems),
        "prediction_type": predictions.name_of(trained.prediction, PREDICTIONS, problems),
        "variance_type": config.variance,
    }
    return keys.write(DDPMKeys, NAME, values, problems)


def _last_time(config: DDPMConfig, trained: Trained, steps: int) -> int:
    """Where the last step starts, in training steps."""
    if config.spacing == "trailing":
        return round((trained.schedule.steps or steps) / steps) - 1
    return config.steps_offset if config.spacing == "leading" else 0
