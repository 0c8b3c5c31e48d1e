"""EDMEulerScheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_registry.vocabulary import Prediction
from ldm_schedulers.diffusers import keys, spacings

if TYPE_CHECKING:
    from ldm_schedulers.edm_euler import EDMEulerConfig

NAME: Final = "EDMEulerScheduler"
ONE_STEP: Final = "sigma_schedule exponential with 1 step: diffusers starts at sigma_min, ours at sigma_max"
NO_STEP: Final = (
    "final_sigmas_type sigma_min with 1 step: diffusers ends where it starts from, ours at sigma_min"
)
_PREDICTIONS: Final = {"epsilon": Prediction.F, "v_prediction": Prediction.V}


class EDMKeys(keys.Keys):
    """The keys of the class and their defaults. `num_train_timesteps` has no bearing on the levels."""

    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    sigma_data: float = Field(default=0.5, gt=0)
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    num_train_timesteps: int = Field(default=1000, ge=1)
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rho: float = Field(default=7.0, gt=0)
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(EDMKeys, NAME, values)
    config: dict[str, Any] = {"sigma_spacing": said.sigma_schedule, "final": said.final_sigmas_type}
    if said.sigma_schedule == "karras":
        config["rho"] = said.rho
    if said.sigma_data != 1.0:
        # diffusers starts with the spread of data of unit variance, whatever the data's.
        config["prior_std"] = math.sqrt(said.sigma_max**2 + 1.0) / said.sigma_data
    names = ("sigma_min", "sigma_max", "sigma_data")
    return SchedulerReading(
        config=config,
        schedule={"name": "edm", **{name: getattr(said, name) for name in names}},
        prediction=_PREDICTIONS[said.prediction_type],
        data_std=said.sigma_data,
        defaults=notes,
        differences=(
            *((ONE_STEP,) if said.sigma_schedule == "exponential" else ()),
            *((NO_STEP,) if said.final_sigmas_type == "sigma_min" else ()),
        ),
    )


def write_config(config: EDMEulerConfig, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same steps; see `ForeignScheduler.to_diffusers`."""
    problems = spacings.leftovers(config, ("sigma_spacing", "rho", "final"))
    schedule = trained.schedule
    names = {prediction: name for name, prediction in _PREDICTIONS.items()}
    if schedule.name != "edm" or trained.time_scale != 1.0:
        problems.append("the noise schedule has to be edm, and the network to be fed its time")
    if trained.prediction not in names:
        problems.append(f"the denoiser's prediction is {trained.prediction}; expected f or v")
    if config.sigma_spacing not in ("karras", "exponential"):
        problems.append(f"sigma_spacing: {config.sigma_spacing}; expected karras or exponential")
    if config.s_churn > 0:
        problems.append(f"s_churn: {config.s_churn} is an argument of diffusers' step")
    if config.final == "last":
        problems.append("final: last has no key in diffusers")
    values = schedule.config.model_dump() if schedule.name == "edm" else {}
    if values:
        start = math.sqrt(values["sigma_max"] ** 2 + 1.0) / values["sigma_data"]
        stated = config.prior_std or math.hypot(values["sigma_max"] / values["sigma_data"], 1.0)
        if not math.isclose(start, stated, rel_tol=1e-9):
            problems.append(f"sampling starts from noise of std {stated:g}; diffusers starts from {start:g}")
    values |= {
        "sigma_schedule": config.sigma_spacing,
        "rho": config.rho,
        "prediction_type": names.get(trained.prediction, "epsilon"),
        "final_sigmas_type": config.final,
    }
    return keys.write(EDMKeys, NAME, values, problems)
