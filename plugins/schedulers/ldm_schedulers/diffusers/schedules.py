"""Betas and the noise schedules that they make."""

from __future__ import annotations

from typing import Any, Final

from ldm_registry.interfaces import NoiseSchedule
from ldm_schedulers.diffusers.keys import DiscreteKeys

TERMINAL_ALPHA_BAR: Final = 2.0**-24
"""What Euler and its kin put in place of the 0 that the zero-SNR rescale leaves, so that sigma stays finite (4096)."""

_RANGED: Final = ("linear", "scaled_linear", "sigmoid")


def schedule_of(
    keys: DiscreteKeys, *, rescale: bool = False, finite: bool = False, linear: bool = False
) -> dict[str, Any]:
    """`name` and settings of the noise schedule that the betas make; settings at our defaults are left out.

    Args:
        keys: The betas.
        rescale: `rescale_betas_zero_snr`.
        finite: With the rescale, the last step keeps `TERMINAL_ALPHA_BAR`.
        linear: Between two steps the class interpolates sigma / alpha, and not its logarithm.
    """
    schedule: dict[str, Any]
    if keys.trained_betas is not None:
        schedule = {"name": "trained_betas", "betas": keys.trained_betas}
    else:
        schedule = {"name": keys.beta_schedule, "steps": keys.num_train_timesteps}
        if keys.beta_schedule in _RANGED:
            schedule |= {"beta_start": keys.beta_start, "beta_end": keys.beta_end}
    if rescale:
        schedule["rescale_zero_snr"] = True
        if finite:
            schedule["terminal_alpha_bar"] = TERMINAL_ALPHA_BAR
    if linear:
        schedule["interpolation"] = "linear"
    return schedule


def betas_of(
    schedule: NoiseSchedule,
    names: tuple[str, ...],
    problems: list[str],
    *,
    finite: bool = False,
    rescalable: bool = True,
) -> dict[str, Any]:
    """The keys of a noise schedule, `rescale_betas_zero_snr` included where it is set.

    Args:
        schedule: Ours.
        names: Of the values that the class has for `beta_schedule`.
        problems: Gets a line for each setting that diffusers cannot express.
        finite: With the rescale, the class keeps `TERMINAL_ALPHA_BAR` in the last step.
        rescalable: The class has `rescale_betas_zero_snr`.
    """
    values = schedule.config.model_dump()
    if schedule.name not in (*names, "trained_betas"):
        problems.append(
            f"the noise schedule is {schedule.name}; expected {', '.join(names)} or trained_betas"
        )
        return {}
    rescaled = values["rescale_zero_snr"]
    expected = TERMINAL_ALPHA_BAR if finite and rescaled else None
    if values["terminal_alpha_bar"] != expected:
        problems.append(
            f"the noise schedule has terminal_alpha_bar {values['terminal_alpha_bar']}; diffusers has {expected} here"
        )
    if rescaled and not rescalable:
        problems.append("the noise schedule has rescale_zero_snr; this class of diffusers has no such key")
    keys: dict[str, Any] = {"rescale_betas_zero_snr": True} if rescaled else {}
    keys["num_train_timesteps"] = schedule.steps
    if schedule.name == "trained_betas":
        return keys | {"trained_betas": values["betas"]}
    if values.get("max_beta", 0.999) != 0.999:
        problems.append(f"the noise schedule has max_beta {values['max_beta']}; diffusers has 0.999")
    ends = {key: values[key] for key in ("beta_start", "beta_end") if key in values}
    return keys | {"beta_schedule": schedule.name} | ends
