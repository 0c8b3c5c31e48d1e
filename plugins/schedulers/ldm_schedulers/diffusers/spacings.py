"""Which steps are picked, how sigma is spaced, and how the clean estimate is limited."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from ldm_registry.interfaces import NoiseSchedule, Trained
from ldm_schedulers.diffusers.keys import DiscreteKeys, LimitKeys, SigmaKeys
from ldm_schedulers.estimate import SamplerConfig
from ldm_schedulers.spacing_config import SpacingConfig

ONE_STEP: Final = (
    "timestep_spacing linspace with 1 step: diffusers starts at its cleanest time, ours at the noisiest"
)
TRAILING_COUNT: Final = (
    "timestep_spacing trailing with some numbers of steps (61 of 1000 is one): diffusers takes one step more, at "
    "time -1; ours takes as many as asked"
)
STRIDE: Final = (
    "timestep_spacing linspace, or trailing where T // N leaves a remainder: diffusers steps back by T // N, to a "
    "level that is not the next one it visits; ours steps to the next"
)
SPACED_FIELDS: Final = ("sigma_spacing", "sigma_ends")
_SPACED: Final = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


def spacing_of(keys: DiscreteKeys) -> dict[str, Any]:
    """`spacing`, and `steps_offset` where diffusers heeds it."""
    heeded = keys.timestep_spacing == "leading" and keys.steps_offset > 0
    return {"spacing": keys.timestep_spacing, **({"steps_offset": keys.steps_offset} if heeded else {})}


def spacing_differences(keys: DiscreteKeys) -> tuple[str, ...]:
    """Where the steps of every class of diffusers are not those that were asked for."""
    return {"linspace": (ONE_STEP,), "trailing": (TRAILING_COUNT,)}.get(keys.timestep_spacing, ())


def sigma_spacing_of(keys: SigmaKeys) -> dict[str, Any]:
    """`sigma_spacing` and nothing where sigma is not spaced by itself."""
    used = [name for key, name in _SPACED.items() if getattr(keys, key)]
    return {"sigma_spacing": used[0]} if used else {}


def limits_of(keys: LimitKeys) -> dict[str, Any]:
    """`clip`, or the thresholding that takes its place."""
    if keys.thresholding:
        return {"threshold_ratio": keys.dynamic_thresholding_ratio, "threshold_max": keys.sample_max_value}
    return {"clip": keys.clip_sample_range} if keys.clip_sample else {}


def spacing_keys(
    config: SpacingConfig, schedule: NoiseSchedule, steps: int, problems: list[str]
) -> dict[str, Any]:
    """`timestep_spacing` and `steps_offset`.

    Args:
        config: Ours.
        schedule: What the steps are picked from.
        steps: N.
        problems: Gets a line where diffusers picks others.
    """
    if config.spacing == "linspace" and steps == 1:
        problems.append("spacing: linspace with 1 step starts at time 0 in diffusers; use trailing")
    total = schedule.steps
    if config.spacing == "trailing" and total is not None and math.ceil(total / (total / steps)) != steps:
        problems.append(
            f"spacing: trailing with {steps} steps takes {steps + 1} in diffusers; use another number"
        )
    return {"timestep_spacing": config.spacing, "steps_offset": config.steps_offset}


def whole_times(config: SpacingConfig, trained: Trained, steps: int) -> list[str]:
    """A line where diffusers would round times that this sampler leaves between two steps, or feed scaled times."""
    problems = _scale(trained)
    if config.spacing == "linspace" and not config.round_times and _between_steps(trained, steps):
        problems.append("round_times: false with spacing: linspace has no key in diffusers")
    return problems


def interpolated(config: SpacingConfig, trained: Trained, steps: int) -> list[str]:
    """A line where diffusers would put levels between two steps elsewhere, or feed scaled times."""
    problems = [] if trained.schedule.name == "edm" else _scale(trained)
    between = config.spacing == "linspace" and _between_steps(trained, steps)
    if config.sigma_spacing == "none" and between and config.round_times:
        problems.append("round_times: true has no key in diffusers")
    interpolation = getattr(trained.schedule.config, "interpolation", "log_linear")
    expected = "linear" if config.sigma_spacing == "none" else "log_linear"
    if (between or config.sigma_spacing != "none") and interpolation != expected:
        problems.append(
            f"the noise schedule has interpolation {interpolation}; diffusers has {expected} here"
        )
    return problems


def _scale(trained: Trained) -> list[str]:
    scale = trained.time_scale
    return [] if scale == 1.0 else [f"the network is fed {scale} * time; diffusers feeds the time itself"]


def _between_steps(trained: Trained, steps: int) -> bool:
    return steps > 1 and ((trained.schedule.steps or 1) - 1) % (steps - 1) != 0


def strides(config: SpacingConfig, trained: Trained, steps: int) -> list[str]:
    """A line where a class that steps back by `T // N` misses the level that it visits next."""
    total = trained.schedule.steps or steps
    exact = {"leading": True, "trailing": total % steps == 0, "linspace": steps == total}[config.spacing]
    if exact:
        return []
    return [
        f"spacing: {config.spacing} with {steps} of {total} steps: diffusers steps to levels that it does not visit; "
        "use leading, or trailing with a number that divides T"
    ]


def prior_of(keys: DiscreteKeys) -> dict[str, Any]:
    """How k-diffusion's samplers start: from noise alone, but for `leading`."""
    return {} if keys.timestep_spacing == "leading" else {"prior": "noise"}


def prior_problems(config: SpacingConfig) -> list[str]:
    """A line where noise starts otherwise than the spacing says in diffusers."""
    expected = "marginal" if config.spacing == "leading" else "noise"
    if config.prior == expected:
        return []
    return [f"prior: {config.prior} with spacing: {config.spacing}; diffusers has prior: {expected} there"]


def sigma_keys(config: SpacingConfig) -> dict[str, Any]:
    """`use_karras_sigmas` and its like."""
    return {key: True for key, name in _SPACED.items() if config.sigma_spacing == name}


def limit_keys(config: SamplerConfig, problems: list[str]) -> dict[str, Any]:
    """`clip_sample`, `thresholding` and what they need."""
    if config.clip is not None and config.threshold_ratio is not None:
        problems.append("clip and threshold_ratio are both set; diffusers applies one of them")
    if config.threshold_ratio is not None:
        ratio, top = config.threshold_ratio, config.threshold_max
        limits = {"dynamic_thresholding_ratio": ratio, "sample_max_value": top}
        return {"clip_sample": False, "thresholding": True, **limits}
    clipped = {} if config.clip is None else {"clip_sample_range": config.clip}
    return {"clip_sample": config.clip is not None, **clipped}


def leftovers(config: SamplerConfig, handled: Iterable[str]) -> list[str]:
    """A line for every setting that is not at its neutral value and that no key of the class expresses.

    Args:
        config: Ours.
        handled: The fields that the class has keys for.
    """
    idle = {"steps", *handled}
    if config.sigma_spacing == "none":
        idle |= {"rho", "beta_shape", "sigma_axis", "sigma_ends"}
    if config.sigma_spacing != "karras":
        idle.add("rho")
    if config.sigma_spacing != "beta":
        idle.add("beta_shape")
    if config.dynamic_shift == "none":
        idle |= {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"}
    if config.threshold_ratio is None:
        idle.add("threshold_max")
    fields = SamplerConfig.model_fields
    return [
        f"{name}: {getattr(config, name)} has no key in diffusers"
        for name in fields
        if name not in idle and getattr(config, name) != fields[name].default
    ]
