"""Which steps are picked, how sigma is spaced, and how the clean estimate is limited."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from ldm_registry.interfaces import NoiseSchedule
from ldm_schedulers.diffusers.keys import LimitKeys, SigmaKeys, TrainingKeys
from ldm_schedulers.estimate import SamplerConfig
from ldm_schedulers.spacing_config import SpacingConfig

ONE_STEP: Final = (
    "timestep_spacing linspace with 1 step: diffusers starts at its cleanest time, ours at the noisiest"
)
TRAILING_COUNT: Final = (
    "timestep_spacing trailing with some numbers of steps (61 of 1000 is one): diffusers takes one step more, at "
    "time -1; ours takes as many as asked"
)
_SPACED: Final = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


def spacing_of(keys: TrainingKeys) -> dict[str, Any]:
    """`spacing`, and `steps_offset` where diffusers heeds it."""
    offset = {"steps_offset": keys.steps_offset} if keys.timestep_spacing == "leading" else {}
    return {"spacing": keys.timestep_spacing, **offset}


def spacing_differences(keys: TrainingKeys) -> tuple[str, ...]:
    """Where the steps of every class of diffusers are not those that were asked for."""
    return {"linspace": (ONE_STEP,), "trailing": (TRAILING_COUNT,)}.get(keys.timestep_spacing, ())


def sigma_spacing_of(keys: SigmaKeys) -> dict[str, Any]:
    """`sigma_spacing` and nothing where sigma is not spaced by itself."""
    return {"sigma_spacing": name for key, name in _SPACED.items() if getattr(keys, key)}


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
        problems.append(f"spacing: trailing with {steps} steps takes {steps + 1} in diffusers; use another number")
    return {"timestep_spacing": config.spacing, "steps_offset": config.steps_offset}


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
