"""What holds for every scheduler, whatever network it is put beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ldm_registry.interfaces import Denoised, NoiseLevel, Scheduler, Step
from ldm_registry.testing.check import asked_of, require, require_close, require_equal
from ldm_registry.testing.stand_ins import shrink
from ldm_registry.testing.subject import Subject, seeded
from ldm_registry.vocabulary import Kind

PRIOR_TOLERANCE = 0.25
"""Of the starting noise's std against the marginal's; starting at sigma in place of hypot(alpha, sigma) is usual."""


@asked_of(Kind.SCHEDULER)
def levels_run_from_noise_to_data(subject: Subject) -> None:
    """`levels()` is float64 on the CPU, finite, at least two long, and log-SNR rises strictly."""
    levels = _scheduler(subject).levels()
    require(len(levels) >= 2, f"{len(levels)} levels; N steps need N + 1")
    for name, value in {"alpha": levels.alpha, "sigma": levels.sigma}.items():
        got = (value.dtype, value.device.type, value.ndim)
        require(got == (torch.float64, "cpu", 1), f"{name} is {got}; expected float64 on cpu, one dimension")
        require(bool((value.isfinite() & (value >= 0)).all()), f"{name} has negative or infinite values")
    rise = levels.log_snr.diff()
    require(
        bool((rise > 0).all()),
        f"log-SNR does not rise at step {int((~(rise > 0)).nonzero().flatten()[:1].sum())}",
    )


@asked_of(Kind.SCHEDULER)
def starting_noise_has_the_std_of_the_first_level(subject: Subject) -> None:
    """`levels().prior` scales unit noise to about what unit-variance data look like at the first level."""
    levels = _scheduler(subject).levels()
    got, expected = float(levels.prior(torch.ones(()))), float(levels[0].std)
    require(
        abs(got - expected) <= PRIOR_TOLERANCE * expected,
        f"sampling starts from noise of std {got:.4g}; data of unit variance have {expected:.4g} at the first level",
    )


@asked_of(Kind.SCHEDULER)
def each_step_lands_on_the_next_level(subject: Subject) -> None:
    """N steps, counted from 0, each at the next of `levels()`, with `z` and `x0` of the shape of `z`."""
    scheduler = _scheduler(subject)
    levels, steps = scheduler.levels(), _steps(subject, scheduler)
    indices = [step.index for step in steps]
    require(indices == list(range(len(levels) - 1)), f"steps {indices[:5]}... for {len(levels)} levels")
    shape = subject.inputs(scheduler).main.shape
    for step in steps:
        expected = levels[step.index + 1]
        got = (float(step.level.alpha), float(step.level.sigma))
        require(
            got == (float(expected.alpha), float(expected.sigma)),
            f"step {step.index} is at {got}, levels()[{step.index + 1}] is {expected}",
        )
        require(step.z.shape == step.x0.shape == shape, f"step {step.index} has {list(step.z.shape)}")


@asked_of(Kind.SCHEDULER)
def a_point_mass_is_returned(subject: Subject) -> None:
    """With a denoiser that always knows the answer, sampling ends there but for the last level's noise."""
    scheduler = _scheduler(subject)
    answer = torch.linspace(-0.5, 0.5, 48, dtype=torch.float64).view(1, 2, 4, 6)
    *_, last = _steps(subject, scheduler, lambda z, level: Denoised(answer.expand_as(z)))
    alpha, sigma = float(last.level.alpha), float(last.level.sigma)
    off = float((last.z - alpha * answer).square().mean().sqrt())
    # The root mean square of 144 normal values lies within a third of their std.
    require(
        off <= 1.34 * sigma + 1e-6,
        f"it ends {off:.3g} off; the last level's sigma is {sigma:.3g}",
    )


@asked_of(Kind.SCHEDULER)
def runs_do_not_leak_into_one_another(subject: Subject) -> None:
    """A run that another interrupts gives what it gives alone."""
    scheduler = _scheduler(subject)
    alone = _steps(subject, scheduler)
    start = _start(subject, scheduler)
    interrupted = scheduler.trajectory(shrink, start, seeded())
    begun = [next(interrupted)]
    for _ in scheduler.trajectory(shrink, -2 * start, seeded()):
        pass
    for got, expected in zip([*begun, *interrupted], alone, strict=True):
        require_equal(got.z, expected.z, f"z of step {expected.index}, another run in between")


@asked_of(Kind.SCHEDULER)
def nothing_happens_before_it_is_pulled(subject: Subject) -> None:
    """`trajectory` calls the denoiser only when the next step is asked for."""
    scheduler = _scheduler(subject)
    calls: list[NoiseLevel] = []

    def counted(z: Tensor, level: NoiseLevel) -> Denoised:
        calls.append(level)
        return shrink(z, level)

    steps = iter(scheduler.trajectory(counted, _start(subject, scheduler), seeded()))
    require(not calls, f"the denoiser was called {len(calls)} times before the first step was asked for")
    next(steps)
    early = len(calls)
    rest = sum(1 for _ in steps)
    require(
        rest == 0 or len(calls) > early,
        f"all {early} denoiser calls were made for the first of {rest + 1} steps",
    )


@asked_of(Kind.SCHEDULER)
def single_precision_agrees_with_double(subject: Subject) -> None:
    """A run in float32 stays within rounding of the run in float64: coefficients come from float64 levels."""
    scheduler = _scheduler(subject)
    start = _start(subject, scheduler)
    *_, double = scheduler.trajectory(shrink, start, seeded())
    *_, single = scheduler.trajectory(shrink, start.float(), seeded())
    require_close(single.z.double(), double.z, "z of the last step, float32 against float64", 1e-3)


def _scheduler(subject: Subject) -> Scheduler:
    return cast(Scheduler, subject.fresh())


def _start(subject: Subject, scheduler: Scheduler) -> Tensor:
    return scheduler.levels().prior(subject.inputs(scheduler).main)


def _steps(
    subject: Subject, scheduler: Scheduler, denoise: Callable[[Tensor, NoiseLevel], Denoised] = shrink
) -> list[Step]:
    return list(scheduler.trajectory(denoise, _start(subject, scheduler), seeded()))


CHECKS = (
    levels_run_from_noise_to_data,
    starting_noise_has_the_std_of_the_first_level,
    each_step_lands_on_the_next_level,
    a_point_mass_is_returned,
    runs_do_not_leak_into_one_another,
    nothing_happens_before_it_is_pulled,
    single_precision_agrees_with_double,
)
