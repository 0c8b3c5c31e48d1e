"""Which levels the multistep solvers in log-SNR visit: the common spacing, and what theirs has beyond it."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseLevel, NoiseLevels, NoiseSchedule
from ldm_schedulers import spacing
from ldm_schedulers.estimate import SamplerConfig
from ldm_schedulers.tables import DOUBLE, log_ratio_of


class MultistepConfig(SamplerConfig):
    """Where the levels of DPM-Solver and UniPC lie."""

    round_times: bool = Field(
        default=True, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    skip_cleanest: bool = Field(
        default=True,
        description="space `leading` and `linspace` times for N + 1 steps without the cleanest, as diffusers does",
    )
    signal_floor: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="least share of signal alpha / (alpha + sigma) to start from; null starts where the spacing does",
    )
    final_ratio: float | None = Field(
        default=None,
        gt=0,
        description="sigma / alpha that the last step leads to, in place of `final`; no noisier than where it starts",
    )
    prior_std: float | None = Field(
        default=None, gt=0, description="std of the noise that sampling starts from, in place of `prior`"
    )


def levels(
    config: MultistepConfig,
    schedule: NoiseSchedule,
    tokens: int | None = None,
    lambda_min: float | None = None,
) -> NoiseLevels:
    """The N + 1 levels, in the schedule's own scaling.

    Args:
        config: Where the levels lie.
        schedule: What they are picked from.
        tokens: Patches that the denoiser sees, for the resolution-dependent shift.
        lambda_min: Smallest log(alpha / sigma) that evenly spaced times start from.

    Raises:
        SpecError: Options that contradict one another or do not fit the schedule.
    """
    skip = config.skip_cleanest
    if lambda_min is not None:
        times = _limited_times(config, schedule, lambda_min)
        config, skip = config.model_copy(update={"timesteps": times, "steps": None, "steps_offset": 0}), False
    found = spacing.levels(config, schedule, tokens, skip_cleanest=skip)
    ratios = -0.5 * found.log_snr
    if config.signal_floor is not None:
        ratios[0] = ratios[0].clamp(max=math.log1p(-config.signal_floor) - math.log(config.signal_floor))
    if config.final_ratio is not None:
        ratios[-1] = ratios[-2].clamp(max=math.log(config.final_ratio))
    if not bool((ratios.diff() <= 0).all()):
        raise SpecError(
            "signal_floor has to leave the levels in order",
            [f"sigma / alpha runs {', '.join(f'{one:g}' for one in ratios.exp().tolist()[:9])}"],
            "lower signal_floor",
        )
    level = NoiseLevel.at(-2.0 * ratios, schedule.scaling)
    return NoiseLevels(level.alpha, level.sigma, config.prior_std or found.prior_std)


def _limited_times(config: MultistepConfig, schedule: NoiseSchedule, lambda_min: float) -> tuple[float, ...]:
    """Whole times spaced over those that are no noisier than a limit, noisiest first.

    `trailing` keeps the stride of the whole schedule, and so takes fewer steps where the limit leaves out much.
    """
    listed = config.timesteps or config.sigmas or config.log_snrs
    if schedule.steps is None or listed or config.sigma_spacing != "none":
        raise SpecError(
            "lambda_min_clipped limits evenly spaced times of a discrete schedule",
            ["these levels are listed, spaced in sigma, or those of a continuous schedule"],
            "remove it, and set sigma_max",
        )
    ratios = log_ratio_of(schedule.level(torch.arange(schedule.steps, **DOUBLE)))
    room = int((ratios <= -lambda_min).sum())
    steps = config.steps or min(50, room)
    if steps > room:
        raise SpecError(
            "lambda_min_clipped leaves too few training steps",
            [f"got {steps} steps, expected at most {room}"],
        )
    points = steps + (config.skip_cleanest and steps < room)
    if config.spacing == "linspace":
        times = torch.arange(points, **DOUBLE).flip(0) * ((room - 1.0) / max(points - 1, 1))
        times = times.round() if config.round_times else times
    elif config.spacing == "leading":
        times = (points - 1 - torch.arange(points, **DOUBLE)) * (room // points) + config.steps_offset
    else:
        stride = schedule.steps / steps
        times = (room - torch.arange(math.ceil(room / stride), **DOUBLE) * stride).round() - 1
    return tuple(times[:steps].tolist())
