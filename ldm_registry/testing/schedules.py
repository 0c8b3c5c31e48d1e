"""What holds for every noise schedule."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel, NoiseSchedule
from ldm_registry.testing.check import NotApplicableError, asked_of, require, require_close
from ldm_registry.testing.subject import Subject
from ldm_registry.vocabulary import Kind, Scaling

GRID = 101
IDENTITY_TOLERANCE = 1e-12
"""Of `alpha**2 + sigma**2 = 1` and its like, in float64."""
ROUND_TRIP_TOLERANCE = 1e-6
"""Of time to level and back, as a share of the whole range; near its ends log-SNR has few digits left."""


@asked_of(Kind.SCHEDULE)
def levels_keep_the_identity_of_their_scaling(subject: Subject) -> None:
    """`alpha**2 + sigma**2 = 1` under vp, `alpha = 1` under ve, `alpha + sigma = 1` under flow."""
    schedule = _schedule(subject)
    level = schedule.level(_grid(schedule))
    match schedule.scaling:
        case Scaling.VP:
            total = level.alpha.square() + level.sigma.square()
        case Scaling.VE:
            total = level.alpha
        case Scaling.FLOW:
            total = level.alpha + level.sigma
    require_close(
        total, torch.ones_like(total), f"the identity of scaling {schedule.scaling}", IDENTITY_TOLERANCE
    )


@asked_of(Kind.SCHEDULE)
def noise_grows_with_time(subject: Subject) -> None:
    """log-SNR falls strictly from the cleanest time to the noisiest."""
    schedule = _schedule(subject)
    times = _grid(schedule)
    log_snr = schedule.level(times).log_snr
    wrong = (~(log_snr.diff() < 0)).nonzero().flatten()
    require(
        len(wrong) == 0,
        f"log-SNR does not fall at {len(wrong)} of {len(times)} times, first at {float(times[wrong[:1]].sum()):g}",
    )


@asked_of(Kind.SCHEDULE)
def time_range_is_as_declared(subject: Subject) -> None:
    """A discrete schedule counts 0 to T - 1; levels beyond the ends come back as the ends."""
    schedule = _schedule(subject)
    low, high = schedule.time_range
    require(low < high, f"time_range is {schedule.time_range}; expected (cleanest, noisiest)")
    if schedule.steps is not None:
        require(
            (low, high) == (0.0, schedule.steps - 1.0),
            f"time_range is {(low, high)} with {schedule.steps} steps",
        )
    ends = NoiseLevel(torch.tensor([1.0, 1e-150]).double(), torch.tensor([1e-150, 1.0]).double())
    clamped = schedule.time(ends)
    declared = torch.tensor([low, high], dtype=torch.float64)
    require_close(clamped, declared, "time of levels beyond both ends", 1e-9)


@asked_of(Kind.SCHEDULE)
def time_inverts_level(subject: Subject) -> None:
    """`time(level(t))` is t, whatever units the level is brought in; a discrete step comes back exactly."""
    schedule = _schedule(subject)
    low, high = schedule.time_range
    times = _grid(schedule)
    level = schedule.level(times)
    exploding = NoiseLevel(torch.ones_like(level.alpha), level.sigma / level.alpha)
    finite = exploding.sigma.isfinite()
    for units, same in {"its own": level, "vp": level.normalised(), "ve": exploding}.items():
        back = schedule.time(same)
        apart = (back - times)[finite].abs() / (high - low)
        worst = int(apart.argmax())
        require(
            float(apart[worst]) <= ROUND_TRIP_TOLERANCE,
            f"time {float(times[finite][worst]):g} came back as {float(back[finite][worst]):g} in {units} units",
        )
    if schedule.steps is not None:
        steps = torch.arange(schedule.steps, dtype=torch.float64)
        wrong = (schedule.time(schedule.level(steps)) != steps).nonzero().flatten()
        require(
            len(wrong) == 0,
            f"{len(wrong)} of {schedule.steps} steps do not come back exactly, first {wrong[:3]}",
        )


@asked_of(Kind.SCHEDULE)
def levels_are_double_and_of_the_shape_of_time(subject: Subject) -> None:
    """alpha, sigma and time are float64 on the CPU, of the shape that was asked for, whatever dtype asks."""
    schedule = _schedule(subject)
    low, high = schedule.time_range
    for shape in ((), (5,), (2, 3)):
        times = torch.full(shape, round(low + 0.5 * (high - low)) or high / 2, dtype=torch.float32)
        level = schedule.level(times)
        outputs = {"alpha": level.alpha, "sigma": level.sigma, "time": schedule.time(level)}
        for name, value in outputs.items():
            got = (value.dtype, value.device.type, tuple(value.shape))
            require(
                got == (torch.float64, "cpu", shape), f"{name} is {got}; expected float64 on cpu of {shape}"
            )


@asked_of(Kind.SCHEDULE)
def between_steps_the_level_is_interpolated(subject: Subject) -> None:
    """Halfway between two discrete steps, `log(sigma / alpha)` is halfway too."""
    schedule = _schedule(subject)
    if schedule.steps is None:
        raise NotApplicableError("it is continuous")
    left = torch.linspace(0, schedule.steps - 2, GRID, dtype=torch.float64).round()
    ends = schedule.level(torch.stack([left, left + 1])).log_snr
    middle = schedule.level(left + 0.5).log_snr
    finite = ends.isfinite().all(0)
    require_close(middle[finite], ends.mean(0)[finite], "log-SNR halfway between two steps", 1e-9)


def _schedule(subject: Subject) -> NoiseSchedule:
    return cast(NoiseSchedule, subject.fresh())


def _grid(schedule: NoiseSchedule) -> Tensor:
    low, high = schedule.time_range
    times = torch.linspace(low, high, GRID, dtype=torch.float64)
    return times if schedule.steps is None else torch.unique_consecutive(times.round())


CHECKS = (
    levels_keep_the_identity_of_their_scaling,
    noise_grows_with_time,
    time_range_is_as_declared,
    time_inverts_level,
    levels_are_double_and_of_the_shape_of_time,
    between_steps_the_level_is_interpolated,
)
