"""What DPMSolverMultistepScheduler and UniPCMultistepScheduler share."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import torch
from pydantic import Field

from ldm_registry.interfaces import Trained
from ldm_schedulers import discrete
from ldm_schedulers.diffusers import keys, schedules, spacings
from ldm_schedulers.multistep_spacing import MultistepConfig
from ldm_schedulers.tables import DOUBLE, log_ratio_of

BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")
FLOW_PREDICTIONS: Final = ("flow_prediction", "epsilon", "sample")

WHOLE_TIMES: Final = (
    "{}: diffusers tells the network whole steps only, up to a step away from the levels that it takes; ours tells the "
    "times of the levels"
)
EVERY_STEP: Final = (
    "timestep_spacing {} with as many steps as the schedule has: diffusers {}; ours takes every step once"
)
_EVERY: Final = {"linspace": "repeats a time, which divides by 0", "leading": "takes all of them at time 0"}

_SCHEDULES: Final = {
    kind.name: kind
    for kind in (
        discrete.LinearSchedule,
        discrete.ScaledLinearSchedule,
        discrete.SquaredCosSchedule,
        discrete.TrainedBetasSchedule,
    )
}


class MultistepKeys(keys.SigmaKeys, keys.DiscreteKeys):
    """The keys that both classes have, and their defaults."""

    solver_order: int = Field(default=2, ge=1)
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(default=0.995, gt=0, le=1)
    sample_max_value: float = Field(default=1.0, ge=1)
    lower_order_final: bool = True
    use_flow_sigmas: bool | None = False
    flow_shift: float | None = 1.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"

    def problems(self) -> list[str]:
        """What contradicts itself; diffusers fails over it, or makes noise."""
        flow, dynamic = bool(self.use_flow_sigmas), self.use_dynamic_shifting
        checks = [
            (
                flow and self.prediction_type == "v_prediction",
                "prediction_type v_prediction with use_flow_sigmas: v is defined for alpha**2 + sigma**2 = 1; expected "
                "flow_prediction, epsilon or sample",
            ),
            (
                not flow and self.prediction_type == "flow_prediction",
                "prediction_type flow_prediction needs use_flow_sigmas",
            ),
            (not flow and dynamic, "use_dynamic_shifting needs use_flow_sigmas"),
            (
                flow and not dynamic and not (self.flow_shift and self.flow_shift > 0),
                f"flow_shift: got {self.flow_shift}; expected a number above 0",
            ),
        ]
        return [text for wrong, text in checks if wrong]


def table_ends(said: MultistepKeys) -> tuple[float, float]:
    """sigma / alpha of the cleanest and of the noisiest step of the betas."""
    settings = schedules.schedule_of(said, rescale=said.rescale_betas_zero_snr, finite=True)
    kind: Any = _SCHEDULES[settings.pop("name")]
    schedule = kind(kind.Config(**settings))
    low, high = log_ratio_of(schedule.level(torch.tensor(schedule.time_range, **DOUBLE))).exp().tolist()
    return low, high


def limits_of(said: MultistepKeys) -> dict[str, Any]:
    """The thresholding, where it is on."""
    if not said.thresholding:
        return {}
    return {"threshold_ratio": said.dynamic_thresholding_ratio, "threshold_max": said.sample_max_value}


def shift_of(said: MultistepKeys) -> dict[str, Any]:
    """The shift of a flow."""
    return (
        {"dynamic_shift": said.time_shift_type} if said.use_dynamic_shifting else {"shift": said.flow_shift}
    )


def every_step(said: MultistepKeys) -> tuple[str, ...]:
    """Where N = T goes wrong in diffusers."""
    spacing = said.timestep_spacing
    return (EVERY_STEP.format(spacing, _EVERY[spacing]),) if spacing in _EVERY else ()


def trained_of(said: MultistepKeys) -> dict[str, Any]:
    """The noise schedule and the time scale of a reading."""
    if said.use_flow_sigmas:
        return {"schedule": {"name": "rectified_flow"}, "time_scale": float(said.num_train_timesteps)}
    return {"schedule": schedules.schedule_of(said, rescale=said.rescale_betas_zero_snr, finite=True)}


def limit_keys(config: MultistepConfig) -> dict[str, Any]:
    """The inverse of `limits_of`."""
    if config.threshold_ratio is None:
        return {}
    ratio, top = config.threshold_ratio, config.threshold_max
    return {"thresholding": True, "dynamic_thresholding_ratio": ratio, "sample_max_value": top}


def shift_keys(config: MultistepConfig) -> dict[str, Any]:
    """The inverse of `shift_of`."""
    if config.dynamic_shift == "none":
        return {"use_flow_sigmas": True, "flow_shift": config.shift}
    return {"use_flow_sigmas": True, "use_dynamic_shifting": True, "time_shift_type": config.dynamic_shift}


def table_keys(config: MultistepConfig, steps: int, trained: Trained, problems: list[str]) -> dict[str, Any]:
    """The betas, and how steps are picked from them."""
    for name in ("signal_floor", "prior_std"):
        if getattr(config, name) is not None:
            problems.append(f"{name}: {getattr(config, name)} has no key in diffusers here")
    if config.sigma_spacing != "none" and config.sigma_ends != "schedule":
        problems.append("sigma_ends: spacing has no key in diffusers here")
    values = schedules.betas_of(trained.schedule, BETAS, problems, finite=True)
    problems += spacings.whole_times(config, trained, steps)
    if config.sigma_spacing != "none":
        return values
    if config.spacing != "trailing" and not config.skip_cleanest:
        problems.append(f"skip_cleanest: false with spacing: {config.spacing} has no key in diffusers")
    if config.spacing != "trailing" and steps == trained.schedule.steps:
        problems.append(f"spacing: {config.spacing} over every step fails in diffusers; use trailing")
    return values | spacings.spacing_keys(config, trained.schedule, steps, problems)


def flow_scale(trained: Trained, problems: list[str]) -> int:
    """T of a flow: what its times are multiplied by."""
    scale = trained.time_scale
    if trained.schedule.config.model_dump().get("shift") != 1.0:
        problems.append("the noise schedule has to be rectified_flow with shift 1")
    if scale != round(scale) or scale < 2:
        problems.append(f"the network is fed {scale} * time; diffusers takes a whole number above 1")
        return 1000
    return round(scale)


def close(one: float | None, other: float) -> bool:
    """Whether a setting is a number, but for rounding."""
    return one is not None and math.isclose(one, other, rel_tol=1e-9)


def is_flow(trained: Trained) -> bool:
    """Whether a denoiser was trained on straight lines."""
    return trained.schedule.name == "rectified_flow"


def flow_choices(trained: Trained) -> tuple[str, ...]:
    """The values of `prediction_type` that go with a schedule."""
    return FLOW_PREDICTIONS if is_flow(trained) else PREDICTIONS


def written(
    model: type[MultistepKeys], class_name: str, values: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """A scheduler config with every key of its class.

    Raises:
        SpecError: There are problems, or the keys contradict one another.
    """
    found = [] if problems else model.model_validate(values).problems()
    return keys.write(model, class_name, values, [*problems, *found])
