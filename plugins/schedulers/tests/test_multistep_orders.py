"""The order of the multistep solvers, on Gaussian data whose probability flow is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import ldm_schedulers as plugin
import pytest
import torch

from ldm_registry.interfaces import Step

NOISIEST, CLEANEST = 20.0, 0.02
SCHEDULE = plugin.VESchedule(plugin.VESchedule.Config(sigma_min=CLEANEST, sigma_max=NOISIEST))
Run = Callable[..., list[Step]]


def dpm(order: int, **options: Any) -> tuple[Any, dict[str, Any], int]:
    return plugin.DPMMultistep, {"solver_order": order, **options}, order


SOLVERS = {
    "dpmsolver++ 1": dpm(1),
    "dpmsolver++ 2 midpoint": dpm(2),
    "dpmsolver++ 2 heun": dpm(2, solver_type="heun"),
    "dpmsolver++ 3": dpm(3, second_difference="whole"),
    "dpmsolver 1": dpm(1, algorithm_type="dpmsolver"),
    "dpmsolver 2": dpm(2, algorithm_type="dpmsolver"),
    "dpmsolver 3": dpm(3, algorithm_type="dpmsolver", second_difference="whole"),
    "dpmsolver++ 3 as the authors have it": (plugin.DPMMultistep, {"solver_order": 3}, 2),
    "lms 1": (plugin.LMS, {"order": 1}, 1),
    "lms 2": (plugin.LMS, {"order": 2}, 2),
    "lms 3": (plugin.LMS, {"order": 3}, 3),
    "lms 4": (plugin.LMS, {}, 4),
    "unipc 1": (plugin.UniPC, {"solver_order": 1}, 2),
    "unipc 1 bh1": (plugin.UniPC, {"solver_order": 1, "solver_type": "bh1"}, 2),
    "unipc 2": (plugin.UniPC, {}, 3),
    "unipc 2 noise": (plugin.UniPC, {"predict_x0": False}, 3),
    "unipc 3": (plugin.UniPC, {"solver_order": 3}, 4),
    "unipc 2 without corrector": (plugin.UniPC, {"disable_corrector": tuple(range(2000))}, 2),
    "edm-euler": (plugin.EDMEuler, {"sigma_spacing": "none"}, 1),
}


def error(kind: Any, options: dict[str, Any], steps: int, gaussian: Any, run: Run) -> float:
    """Distance of the affine map of `z / alpha` from the exact one.

    The steps begin short, as the cube of their number, so that the low orders of a solver's first steps do not show.
    """
    share = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64) ** 3
    log_snrs = -2 * math.log(NOISIEST) + share * 2 * (math.log(NOISIEST) - math.log(CLEANEST))
    falling = {} if kind in (plugin.LMS, plugin.EDMEuler) else {"lower_order_final": False}
    config = kind.Config(log_snrs=tuple(log_snrs.tolist()), final="last", **falling, **options)
    z = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    zero, one = run(kind(config, SCHEDULE), gaussian.denoise, z)[-1].z.flatten().tolist()
    exact_zero = gaussian.flow(0.0, NOISIEST, CLEANEST)
    exact_gain = gaussian.flow(1.0, NOISIEST, CLEANEST) - exact_zero
    return math.hypot(zero - exact_zero, NOISIEST * (one - zero - exact_gain))


@pytest.mark.parametrize(("kind", "options", "order"), SOLVERS.values(), ids=SOLVERS)
def test_the_error_falls_with_the_order_of_the_solver(
    kind: Any, options: dict[str, Any], order: int, gaussian: Any, run: Run
) -> None:
    errors = [error(kind, options, steps, gaussian, run) for steps in (320, 640)]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.3), slopes


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("algorithm", ["sde-dpmsolver++", "sde-dpmsolver"])
def test_the_forms_with_noise_make_the_data(
    algorithm: str, order: int, gaussian: Any, run: Run, generator: torch.Generator
) -> None:
    kind = plugin.DPMMultistep
    config = kind.Config(steps=60, algorithm_type=algorithm, solver_order=order, sigma_spacing="exponential")
    count, sampler = 20_000, kind(config, SCHEDULE)
    z = sampler.levels().prior(torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64))
    images = run(sampler, gaussian.denoise, z, generator)[-1].z
    assert float(images.mean()) == pytest.approx(
        gaussian.mean, abs=4 * gaussian.std / math.sqrt(count) + 0.01
    )
    assert float(images.std()) == pytest.approx(gaussian.std, rel=4 / math.sqrt(2 * count) + 0.02)


def test_churn_is_removed_by_the_step_that_it_comes_before(
    gaussian: Any, run: Run, generator: torch.Generator
) -> None:
    kind, count = plugin.EDMEuler, 20_000
    sampler = kind(kind.Config(steps=400, s_churn=20.0, s_tmin=0.05, s_tmax=10.0), SCHEDULE)
    z = sampler.levels().prior(torch.randn(count, 1, 1, 1, generator=generator))
    images = run(sampler, gaussian.denoise, z, generator)[-1].z
    assert float(images.mean()) == pytest.approx(
        gaussian.mean, abs=4 * gaussian.std / math.sqrt(count) + 0.01
    )
    assert float(images.std()) == pytest.approx(gaussian.std, rel=4 / math.sqrt(2 * count) + 0.02)


def test_the_time_of_edm_is_a_quarter_of_the_logarithm_of_sigma() -> None:
    schedule = plugin.EDMSchedule(plugin.EDMSchedule.Config(sigma_data=0.5))
    sigmas = torch.tensor([0.002, 0.5, 3.0, 80.0], dtype=torch.float64)
    times = 0.25 * sigmas.log()
    levels = schedule.level(times)
    torch.testing.assert_close(levels.sigma, sigmas / 0.5, rtol=1e-12, atol=0)
    assert torch.equal(levels.alpha, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(schedule.time(levels), times, rtol=1e-12, atol=1e-12)
    assert schedule.time_range == pytest.approx((times[0].item(), times[-1].item()))
    with pytest.raises(ValueError, match="below"):
        plugin.EDMSchedule.Config(sigma_min=2.0, sigma_max=1.0)
