"""EulerDiscreteScheduler and EulerAncestralDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ldm_registry.errors import SpecError
from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, predictions, schedules, spacings

if TYPE_CHECKING:
    from ldm_schedulers.euler import EulerAncestralConfig, EulerConfig

NAME: Final = "EulerDiscreteScheduler"
ANCESTRAL: Final = "EulerAncestralDiscreteScheduler"
BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")
ANCESTRAL_PREDICTIONS: Final = ("epsilon", "v_prediction")

LOG_LINEAR: Final = (
    "interpolation_type log_linear: diffusers spaces sigma geometrically, tells the network the times of another "
    "spacing and ends at the cleanest level whatever final_sigmas_type says; ours spaces the same range, tells the "
    "times of the levels, and ends where final_sigmas_type says"
)


class EulerKeys(keys.SigmaKeys, keys.TrainingKeys):
    """The keys of EulerDiscreteScheduler and their defaults."""

    prediction_type: Literal["epsilon", "sample", "original_sample", "v_prediction"] = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def continuous(self) -> bool:
        """Whether the network is told `log(sigma) / 4`; `timestep_type` alone does not bring it about."""
        return self.timestep_type == "continuous" and self.prediction_type == "v_prediction"


class EulerAncestralKeys(keys.TrainingKeys):
    """The keys of EulerAncestralDiscreteScheduler and their defaults."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What the config of an EulerDiscreteScheduler says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(EulerKeys, NAME, values)
    spaced = spacings.sigma_spacing_of(said)
    _refuse(said, bool(spaced))
    log_linear = said.interpolation_type == "log_linear"
    if log_linear and not spaced:
        spaced = {"sigma_spacing": "exponential"}
    config = {
        **_levels(said, spaced, log_linear=log_linear),
        "final": said.final_sigmas_type,
        **spacings.prior_of(said),
    }
    strange = log_linear and not spacings.sigma_spacing_of(said)
    return SchedulerReading(
        config=config,
        schedule=_schedule(said, linear=not spaced and said.timestep_spacing == "linspace"),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=(
            *((LOG_LINEAR,) if strange else ()),
            *spacings.spacing_differences(said),
        ),
    )


def _levels(said: EulerKeys, spaced: dict[str, Any], *, log_linear: bool) -> dict[str, Any]:
    """Where the levels lie: at the times, or spaced between the ends of the table, of the times, or of the config."""
    if not spaced:
        return spacings.spacing_of(said)
    bounds = {"sigma_min": said.sigma_min, "sigma_max": said.sigma_max}
    stated = {key: value for key, value in bounds.items() if value is not None}
    if log_linear or stated or said.timestep_spacing == "linspace":
        return {**spaced, **(stated if spacings.sigma_spacing_of(said) else {})}
    return {**spaced, "sigma_ends": "spacing", **spacings.spacing_of(said)}


def _schedule(said: EulerKeys, *, linear: bool) -> dict[str, Any]:
    if said.continuous:
        return {"name": "edm", "sigma_min": said.sigma_min, "sigma_max": said.sigma_max}
    return schedules.schedule_of(said, rescale=said.rescale_betas_zero_snr, finite=True, linear=linear)


def _refuse(said: EulerKeys, spaced: bool) -> None:
    """What of the class is not built."""
    stated = (said.sigma_min is not None) + (said.sigma_max is not None)
    bounded = spaced and stated == 1
    problems = []
    if bounded and said.timestep_spacing != "linspace" and said.interpolation_type == "linear":
        problems.append(
            f"timestep_spacing {said.timestep_spacing} with one of sigma_min and sigma_max: give both, or neither"
        )
    if said.continuous and not (spaced and stated == 2):
        problems.append(
            "timestep_type continuous is supported with sigma_min, sigma_max and one of use_karras_sigmas, "
            "use_exponential_sigmas and use_beta_sigmas"
        )
    if said.continuous and said.final_sigmas_type == "sigma_min":
        problems.append("timestep_type continuous is supported with final_sigmas_type zero")
    if problems:
        raise SpecError(f"the scheduler config of {NAME} asks for what is not built", problems)


def write_config(config: EulerConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The EulerDiscreteScheduler that takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    handled = ("spacing", "steps_offset", "final", "prior", *spacings.SPACED_FIELDS, "sigma_min", "sigma_max")
    problems = [*spacings.leftovers(config, handled), *spacings.interpolated(config, trained, steps)]
    if config.final == "last":
        problems.append("final: last has no key in diffusers")
    continuous = trained.schedule.name == "edm"
    values: dict[str, Any] = {
        **(_of_edm(config, problems) if continuous else _of_table(trained, problems)),
        **_placed(config, trained, steps, problems),
        **spacings.sigma_keys(config),
        "prediction_type": predictions.name_of(trained.prediction, _choices(continuous), problems),
        "final_sigmas_type": "sigma_min" if config.final == "sigma_min" else "zero",
    }
    return keys.write(EulerKeys, NAME, values, problems)


def _choices(continuous: bool) -> tuple[str, ...]:
    return ("v_prediction",) if continuous else PREDICTIONS


def _of_table(trained: Trained, problems: list[str]) -> dict[str, Any]:
    return schedules.betas_of(trained.schedule, BETAS, problems, finite=True)


def _of_edm(config: EulerConfig, problems: list[str]) -> dict[str, Any]:
    if config.sigma_spacing == "none" or config.sigma_ends != "schedule" or config.final != "zero":
        problems.append("the schedule edm takes a sigma_spacing with sigma_ends: schedule and final: zero")
    if config.sigma_min is None or config.sigma_max is None:
        problems.append("the schedule edm takes sigma_min and sigma_max in the sampler too")
    return {"timestep_type": "continuous"}


def _placed(config: EulerConfig, trained: Trained, steps: int, problems: list[str]) -> dict[str, Any]:
    """The keys that place the levels."""
    bounds = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max}
    stated = {key: value for key, value in bounds.items() if value is not None}
    if config.sigma_spacing == "none" or config.sigma_ends == "spacing":
        problems += spacings.prior_problems(config)
        if stated:
            problems.append(
                "sigma_min and sigma_max need a sigma_spacing with sigma_ends: schedule in diffusers"
            )
        return spacings.spacing_keys(config, trained.schedule, steps, problems)
    # The ends do not depend on the times, which leaves `timestep_spacing` to say how noise starts.
    if config.prior == "noise":
        if steps == 1 and config.sigma_max is None:
            problems.append("1 step starts at time 0 in diffusers; state sigma_max")
        return {"timestep_spacing": "linspace", **stated}
    ends = {} if len(stated) == 2 else {"interpolation_type": "log_linear"}
    return {"timestep_spacing": "leading", **stated, **ends}


def read_ancestral(values: Mapping[str, Any]) -> SchedulerReading:
    """What the config of an EulerAncestralDiscreteScheduler says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(EulerAncestralKeys, ANCESTRAL, values)
    linear = said.timestep_spacing == "linspace"
    return SchedulerReading(
        config={**spacings.spacing_of(said), **spacings.prior_of(said)},
        schedule=schedules.schedule_of(said, rescale=said.rescale_betas_zero_snr, finite=True, linear=linear),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=spacings.spacing_differences(said),
    )


def write_ancestral(config: EulerAncestralConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The EulerAncestralDiscreteScheduler that takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    problems = [
        *spacings.leftovers(config, ("spacing", "steps_offset", "prior")),
        *spacings.interpolated(config, trained, steps),
        *spacings.prior_problems(config),
    ]
    if config.eta != 1.0:
        problems.append(f"eta: {config.eta} has no key in diffusers, whose eta is 1")
    values = {
        **_of_table(trained, problems),
        **spacings.spacing_keys(config, trained.schedule, steps, problems),
        "prediction_type": predictions.name_of(trained.prediction, ANCESTRAL_PREDICTIONS, problems),
    }
    return keys.write(EulerAncestralKeys, ANCESTRAL, values, problems)
