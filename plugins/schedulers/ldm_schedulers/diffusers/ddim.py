"""DDIMScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, predictions, schedules, spacings

if TYPE_CHECKING:
    from ldm_schedulers.ddim import DDIMConfig

NAME: Final = "DDIMScheduler"
BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")


class DDIMKeys(keys.LimitKeys, keys.TrainingKeys):
    """The keys of the class and their defaults."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(DDIMKeys, NAME, values)
    limits = spacings.limits_of(said)
    config = {
        **spacings.spacing_of(said),
        "final": "zero" if said.set_alpha_to_one else "sigma_min",
        **limits,
        **({"rederive_epsilon": False} if limits else {}),
    }
    stride = (spacings.STRIDE,) if said.timestep_spacing != "leading" else ()
    return SchedulerReading(
        config=config,
        schedule=schedules.schedule_of(said, rescale=said.rescale_betas_zero_snr),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=(*stride, *spacings.spacing_differences(said)),
    )


def write_config(config: DDIMConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    handled = ("spacing", "steps_offset", "round_times", "final", "clip", "threshold_ratio", "threshold_max")
    problems = [
        *spacings.leftovers(config, handled),
        *spacings.whole_times(config, trained, steps),
        *spacings.strides(config, trained, steps),
    ]
    limited = config.clip is not None or config.threshold_ratio is not None
    if config.eta > 0:
        problems.append(f"eta: {config.eta} is an argument of diffusers' step and has no key")
    if limited and config.rederive_epsilon:
        problems.append("rederive_epsilon: true with a limited estimate is an argument of diffusers' step")
    if config.final == "last":
        problems.append("final: last has no key in diffusers")
    values = {
        **schedules.betas_of(trained.schedule, BETAS, problems),
        **spacings.spacing_keys(config, trained.schedule, steps, problems),
        **spacings.limit_keys(config, problems),
        "prediction_type": predictions.name_of(trained.prediction, PREDICTIONS, problems),
        "set_alpha_to_one": config.final == "zero",
    }
    return keys.write(DDIMKeys, NAME, values, problems)
