"""Which noise levels a sampler visits: pure functions from a config and a noise schedule to `NoiseLevels`.

Every sampler of this plugin owns a config that extends `SpacingConfig` and asks `levels` once, when it is
built. The level that a step leads to is always the next entry of that list, never a stride counted back in
time, so rounding and uneven spacing cannot leave noise behind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseLevel, NoiseLevels, NoiseSchedule
from ldm_schedulers import times
from ldm_schedulers.shift import shifted
from ldm_schedulers.sigma_spaced import sigma_spaced
from ldm_schedulers.spacing_config import SpacingConfig
from ldm_schedulers.tables import DOUBLE

_ROUNDING_NATS = 1e-9
"""How far two ways to compute one level may lie apart in `log(sigma / alpha)`."""


def levels(
    config: SpacingConfig,
    schedule: NoiseSchedule,
    tokens: int | None = None,
    *,
    default_steps: int = 50,
    skip_cleanest: bool = False,
) -> NoiseLevels:
    """The N + 1 levels of a sampler, in the schedule's own scaling.

    Args:
        config: Where the levels lie.
        schedule: What they are picked from.
        tokens: Patches that the denoiser sees, for the resolution-dependent shift.
        default_steps: N where the config names none; fewer where a discrete schedule has fewer.
        skip_cleanest: Space `leading` and `linspace` times for N + 1 steps and leave out the cleanest, where a
            discrete schedule has that many.

    Raises:
        SpecError: Options that contradict one another or do not fit the schedule; all of them at once.
    """
    _refuse(_contradictions(config, schedule, tokens))
    steps = config.steps or min(default_steps, schedule.steps or default_steps)
    ratios = _log_ratios(config, schedule, steps, skip_cleanest=skip_cleanest)
    ratios, final = _split_final(config, schedule, ratios)
    ratios = shifted(config, ratios, tokens)
    if config.sigma_ends == "spacing" and config.sigma_spacing != "none":
        ratios = sigma_spaced(config, (float(ratios[-1]), float(ratios[0])), steps)
    _refuse(_disorder(ratios, final))
    final = torch.minimum(final, ratios[-1:])
    level = NoiseLevel.at(-2.0 * torch.cat([ratios, final]), schedule.scaling)
    prior_std = float(level.sigma[0]) if config.prior == "noise" else None
    return NoiseLevels(level.alpha, level.sigma, prior_std)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SpecError("the scheduler's config does not give a sequence of noise levels", problems)


def _listed(config: SpacingConfig) -> dict[str, tuple[float, ...]]:
    lists = {"timesteps": config.timesteps, "sigmas": config.sigmas, "log_snrs": config.log_snrs}
    return {name: values for name, values in lists.items() if values is not None}


def _contradictions(config: SpacingConfig, schedule: NoiseSchedule, tokens: int | None) -> list[str]:
    listed = _listed(config)
    placed = config.sigma_spacing != "none" and config.sigma_ends == "schedule"
    evenly = not placed and not listed
    bounded = config.sigma_min is not None or config.sigma_max is not None
    shifted = config.shift != 1.0 or config.dynamic_shift != "none" or config.shift_terminal is not None
    checks = [
        (len(listed) > 1, f"{' and '.join(listed)} each list the levels; keep one of them"),
        (
            listed and config.sigma_spacing != "none",
            "listed levels cannot be spaced again; set sigma_spacing: none",
        ),
        (
            config.final == "last" and not listed,
            "final: last needs timesteps, sigmas or log_snrs; use zero or sigma_min",
        ),
        (
            placed and shifted,
            "sigma_spacing places the levels by itself; remove the shift, or set sigma_ends: spacing",
        ),
        (
            config.shift != 1.0 and config.dynamic_shift != "none",
            "shift and dynamic_shift exclude each other; keep one of them",
        ),
        (
            config.dynamic_shift != "none" and tokens is None,
            "dynamic_shift needs the number of tokens, and this denoiser tells none; use shift",
        ),
        (
            config.dynamic_shift != "none" and config.base_image_seq_len == config.max_image_seq_len,
            "dynamic_shift draws a line between two sizes; base_image_seq_len and max_image_seq_len are equal",
        ),
        (
            config.steps_offset
            and not (evenly and config.spacing == "leading" and schedule.steps is not None),
            "steps_offset fits spacing: leading over a discrete schedule only; set it to 0",
        ),
        (
            evenly and bounded and schedule.steps is not None and config.spacing != "linspace",
            f"sigma_min and sigma_max do not fit spacing: {config.spacing} over a discrete schedule; use linspace",
        ),
    ]
    problems = [text for wrong, text in checks if wrong]
    for name, values in listed.items():
        count = len(values) - (config.final == "last" or (name == "sigmas" and values[-1] == 0))
        if count < 1:
            problems.append(f"{name} lists a final level only; list at least one level before it")
        elif config.steps not in (None, count):
            problems.append(f"{name} makes {count} steps, and steps says {config.steps}; leave steps out")
    return problems


def _disorder(ratios: Tensor, final: Tensor) -> list[str]:
    """Levels have to get cleaner; only the final one may repeat the one before it."""
    problems = (
        []
        if bool((ratios.diff() < 0).all())
        else ["the levels have to get strictly cleaner from step to step"]
    )
    if bool(ratios[-1] == -math.inf):
        problems.append("a step cannot start at a level without noise; list it last, with final: last")
    if bool(final[0] > ratios[-1] + _ROUNDING_NATS):
        problems.append("the final level is noisier than the one before it; use final: zero")
    return problems


def _log_ratios(config: SpacingConfig, schedule: NoiseSchedule, steps: int, *, skip_cleanest: bool) -> Tensor:
    """`log(sigma / alpha)`, float64, noisiest first; includes the final level where that is listed."""
    if config.log_snrs is not None:
        return -0.5 * torch.tensor(config.log_snrs, **DOUBLE)
    if config.sigmas is not None:
        if min(config.sigmas) < 0:
            raise SpecError(
                "sigmas are standard deviations", [f"got {min(config.sigmas)}, expected 0 or more"]
            )
        return torch.tensor(config.sigmas, **DOUBLE).log()
    if config.timesteps is not None:
        return times.at(schedule, torch.tensor(config.timesteps, **DOUBLE))
    if config.sigma_spacing != "none" and config.sigma_ends == "schedule":
        return sigma_spaced(config, times.ends(config, schedule), steps)
    # With as many steps as the schedule has there is none to leave out.
    room = schedule.steps is None or steps < schedule.steps
    extra = skip_cleanest and room and config.spacing != "trailing"
    return times.at(schedule, times.even(config, schedule, steps + extra)[:steps])


def _split_final(config: SpacingConfig, schedule: NoiseSchedule, ratios: Tensor) -> tuple[Tensor, Tensor]:
    ends_clean = config.sigmas is not None and config.sigmas[-1] == 0
    if config.final == "last" or ends_clean:
        return ratios[:-1], ratios[-1:]
    if config.final == "zero":
        return ratios, torch.tensor([-math.inf], **DOUBLE)
    return ratios, times.at(schedule, torch.tensor([schedule.time_range[0]], **DOUBLE))
