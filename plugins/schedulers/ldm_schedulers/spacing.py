"""Which noise levels a sampler visits: pure functions from a config and a noise schedule to `NoiseLevels`.

Every sampler of this plugin owns a config that extends `SpacingConfig` and asks `levels` once, when it is
built. The level that a step leads to is always the next entry of that list, never a stride counted back in
time, so rounding and uneven spacing cannot leave noise behind.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig, NoiseLevel, NoiseLevels, NoiseSchedule
from ldm_registry.vocabulary import Scaling
from ldm_schedulers.tables import DOUBLE, log_ratio_of

_FLOOR = 1e-3
"""Where a continuous schedule starts without any noise, evenly spaced times stop this fraction of its range
above the start: a step that begins at a level without noise has nothing to remove."""

_ROUNDING_NATS = 1e-9
"""How far two ways to compute one level may lie apart in `log(sigma / alpha)`."""


class SpacingConfig(ComponentConfig):
    """Where the levels lie. `sigma` here means the variance-exploding `sigma / alpha`."""

    steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="N, the number of steps; null for the sampler's own default",
    )
    spacing: Literal["leading", "trailing", "linspace"] = Field(
        default="trailing", description="how N times are picked from the schedule (Table 2, Lin et al. 2024)"
    )
    steps_offset: int = Field(default=0, ge=0, description="added to every `leading` time, in training steps")
    round_times: bool = Field(
        default=False, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    timesteps: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100_001,
        description="the times themselves, falling; in schedule time",
    )
    sigmas: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100_001,
        description="the levels as sigma / alpha, falling; 0 may end it",
    )
    log_snrs: tuple[float, ...] | None = Field(
        default=None, min_length=1, max_length=100_001, description="the levels as log-SNR in nats, rising"
    )
    sigma_spacing: Literal["none", "karras", "exponential"] = Field(
        default="none", description="space sigma / alpha by rho (Eq. 5, Karras et al. 2022) or geometrically"
    )
    rho: float = Field(default=7.0, gt=0, description="exponent of `karras`")
    sigma_min: float | None = Field(
        default=None,
        gt=0,
        description="smallest sigma / alpha to space from; null for the schedule's cleanest",
    )
    sigma_max: float | None = Field(
        default=None, gt=0, description="largest sigma / alpha to space to; null for the schedule's noisiest"
    )
    final: Literal["zero", "sigma_min", "last"] = Field(
        default="zero",
        description="where the last step leads: no noise, the schedule's cleanest level, or the last listed value",
    )
    shift: float = Field(
        default=1.0, gt=0, description="multiplies sigma / alpha (Eq. 23, Esser et al. 2024)"
    )
    dynamic_shift: Literal["none", "exponential", "linear"] = Field(
        default="none", description="shift by mu, a line through two image sizes: exp(mu) or mu itself"
    )
    base_shift: float = Field(default=0.5, description="mu at `base_image_seq_len` tokens")
    max_shift: float = Field(default=1.15, description="mu at `max_image_seq_len` tokens")
    base_image_seq_len: int = Field(default=256, ge=1, description="tokens of a small image")
    max_image_seq_len: int = Field(default=4096, ge=1, description="tokens of a large image")
    shift_terminal: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="noise fraction sigma / (alpha + sigma) that the last level before the final one is moved to",
    )


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
    ratios = _shifted(config, ratios, tokens)
    _refuse(_disorder(ratios, final))
    final = torch.minimum(final, ratios[-1:])
    level = NoiseLevel.at(-2.0 * torch.cat([ratios, final]), schedule.scaling)
    return NoiseLevels(level.alpha, level.sigma)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SpecError("the scheduler's config does not give a sequence of noise levels", problems)


def _listed(config: SpacingConfig) -> dict[str, tuple[float, ...]]:
    lists = {"timesteps": config.timesteps, "sigmas": config.sigmas, "log_snrs": config.log_snrs}
    return {name: values for name, values in lists.items() if values is not None}


def _contradictions(config: SpacingConfig, schedule: NoiseSchedule, tokens: int | None) -> list[str]:
    listed = _listed(config)
    evenly = config.sigma_spacing == "none" and not listed
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
            config.sigma_spacing != "none" and shifted,
            "sigma_spacing places the levels by itself; remove the shift",
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
        return _at_times(schedule, torch.tensor(config.timesteps, **DOUBLE))
    if config.sigma_spacing != "none":
        return _sigma_spaced(config, schedule, steps)
    # With as many steps as the schedule has there is none to leave out.
    room = schedule.steps is None or steps < schedule.steps
    extra = skip_cleanest and room and config.spacing != "trailing"
    times = _times(config, schedule, steps + extra)
    return _at_times(schedule, times[:steps])


def _at_times(schedule: NoiseSchedule, times: Tensor) -> Tensor:
    low, high = schedule.time_range
    if bool(((times < low) | (times > high)).any()):
        listed = ", ".join(f"{time:g}" for time in times[(times < low) | (times > high)][:5].tolist())
        raise SpecError(
            "the scheduler asks for times that its noise schedule does not have",
            [f"got {listed}; the range is [{low:g}, {high:g}]"],
            "lower steps_offset, or list other timesteps",
        )
    return log_ratio_of(schedule.level(times))


def _ends(config: SpacingConfig, schedule: NoiseSchedule) -> tuple[float, float]:
    """`log(sigma / alpha)` of the cleanest and of the noisiest level to space between."""
    low, high = log_ratio_of(schedule.level(torch.tensor(schedule.time_range, **DOUBLE))).tolist()
    low = low if config.sigma_min is None else math.log(config.sigma_min)
    high = high if config.sigma_max is None else math.log(config.sigma_max)
    return low, high


def _sigma_spaced(config: SpacingConfig, schedule: NoiseSchedule, steps: int) -> Tensor:
    low, high = _ends(config, schedule)
    problems = []
    if math.isinf(high):
        problems.append(
            "the schedule's noisiest level holds no signal, so its sigma is infinite; set sigma_max"
        )
    if math.isinf(low):
        problems.append("the schedule's cleanest level holds no noise; set sigma_min above 0")
    if not problems and low >= high:
        problems.append(f"sigma_min {math.exp(low):g} has to lie below sigma_max {math.exp(high):g}")
    if problems:
        raise SpecError(f"sigma_spacing: {config.sigma_spacing} has no finite range to space", problems)
    if config.sigma_spacing == "exponential":
        return torch.linspace(high, low, steps, **DOUBLE)
    ramp = torch.linspace(math.exp(high / config.rho), math.exp(low / config.rho), steps, **DOUBLE)
    return config.rho * ramp.log()


def _times(config: SpacingConfig, schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced times, noisiest first, float64."""
    if config.spacing == "linspace":
        return _linspace_times(config, schedule, steps)
    index = torch.arange(steps, **DOUBLE)
    total = schedule.steps
    if total is None:
        low, high = _time_ends(config, schedule)
        if config.spacing == "leading":
            return low + (steps - 1 - index) * ((high - low) / steps)
        return high - index * ((high - schedule.time_range[0]) / steps)
    if steps > total:
        raise SpecError(
            f"spacing: {config.spacing} takes whole training steps",
            [f"got {steps} steps, expected at most the schedule's {total}"],
            "take fewer steps, or spacing: linspace with round_times: false",
        )
    if config.spacing == "leading":
        return (steps - 1 - index) * (total // steps) + config.steps_offset
    return (total - index * (total / steps)).round() - 1


def _linspace_times(config: SpacingConfig, schedule: NoiseSchedule, steps: int) -> Tensor:
    low, high = _time_ends(config, schedule)
    times = torch.linspace(high, low, steps, **DOUBLE)
    return times.round() if config.round_times and schedule.steps is not None else times


def _time_ends(config: SpacingConfig, schedule: NoiseSchedule) -> tuple[float, float]:
    ratios = torch.tensor(_ends(config, schedule), **DOUBLE)
    low, high = schedule.time(NoiseLevel.at(-2.0 * ratios, Scaling.VP)).tolist()
    if math.isinf(ratios[0]):
        low += _FLOOR * (high - low)
    return low, high


def _split_final(config: SpacingConfig, schedule: NoiseSchedule, ratios: Tensor) -> tuple[Tensor, Tensor]:
    ends_clean = config.sigmas is not None and config.sigmas[-1] == 0
    if config.final == "last" or ends_clean:
        return ratios[:-1], ratios[-1:]
    if config.final == "zero":
        return ratios, torch.tensor([-math.inf], **DOUBLE)
    return ratios, _at_times(schedule, torch.tensor([schedule.time_range[0]], **DOUBLE))


def _shifted(config: SpacingConfig, ratios: Tensor, tokens: int | None) -> Tensor:
    """Apply the static or the resolution-dependent shift, then stretch to the terminal value."""
    ratios = ratios + math.log(config.shift)
    if config.dynamic_shift != "none" and tokens is not None:
        slope = (config.max_shift - config.base_shift) / (
            config.max_image_seq_len - config.base_image_seq_len
        )
        mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
        if config.dynamic_shift == "linear" and mu <= 0:
            raise SpecError(
                "dynamic_shift: linear multiplies the noise by mu",
                [f"got mu = {mu:g} at {tokens} tokens, expected more than 0"],
                "raise base_shift, or use dynamic_shift: exponential",
            )
        ratios = ratios + (mu if config.dynamic_shift == "exponential" else math.log(mu))
    if config.shift_terminal is None:
        return ratios
    signal = torch.sigmoid(-ratios)
    signal = signal * ((1.0 - config.shift_terminal) / signal[-1])
    return torch.log1p(-signal) - signal.log()
