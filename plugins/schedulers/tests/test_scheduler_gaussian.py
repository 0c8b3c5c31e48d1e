"""Every sampler against data whose exact posterior mean, and whose exact solution, are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import ldm_schedulers as plugin
import pytest
import torch

from ldm_registry.interfaces import Denoise, Scheduler, Step, randn

NOISIEST, CLEANEST = 20.0, 0.02
SCHEDULE = plugin.VESchedule(plugin.VESchedule.Config(sigma_min=CLEANEST, sigma_max=NOISIEST))

DETERMINISTIC = {
    "ddim": (plugin.DDIM, {}, 1),
    "euler": (plugin.Euler, {}, 1),
    "flow-euler": (plugin.FlowEuler, {}, 1),
    "dpmpp-2m of order 1": (plugin.DPMpp2M, {"order": 1}, 1),
    "dpmpp-2m midpoint": (plugin.DPMpp2M, {}, 2),
    "dpmpp-2m heun": (plugin.DPMpp2M, {"solver_type": "heun"}, 2),
    "heun": (plugin.Heun, {}, 2),
    "flow-heun": (plugin.FlowHeun, {}, 2),
    "edm-heun": (plugin.EDMHeun, {"sigma_spacing": "none"}, 2),
    "pndm": (plugin.PNDM, {}, 2),
    "pndm with runge-kutta": (plugin.PNDM, {"skip_prk_steps": False}, 2),
}
STOCHASTIC = {
    "ddpm": (plugin.DDPM, {}),
    "ddpm fixed_large": (plugin.DDPM, {"variance": "fixed_large"}),
    "ddim eta 1": (plugin.DDIM, {"eta": 1.0}),
    "ddim eta 0.5": (plugin.DDIM, {"eta": 0.5}),
    "euler-ancestral": (plugin.EulerAncestral, {}),
    "sde-dpmsolver++ of order 1": (
        plugin.DPMMultistep,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    ),
}
Run = Callable[..., list[Step]]


def over(kind: Any, options: dict[str, Any], steps: int, schedule: Any = SCHEDULE) -> Any:
    """A sampler over N geometric steps from the noisiest level to the cleanest, with no step to zero noise."""
    log_snrs = torch.linspace(
        -2 * math.log(NOISIEST), -2 * math.log(CLEANEST), steps + 1, dtype=torch.float64
    )
    config = kind.Config(log_snrs=tuple(log_snrs.tolist()), final="last", **options)
    return kind(config, schedule)


def affine(sampler: Scheduler, run: Run, denoise: Denoise) -> tuple[float, float]:
    """Offset and gain of the map from the first `z / alpha` to the last: it is affine for Gaussian data."""
    first, last = sampler.levels()[0], sampler.levels()[-1]
    z = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1) * first.alpha
    zero, one = (run(sampler, denoise, z)[-1].z / last.alpha).flatten().tolist()
    return zero, one - zero


@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_the_error_falls_with_the_order_that_the_paper_states(
    kind: Any, options: dict[str, Any], order: int, gaussian: Any, run: Run
) -> None:
    counts = [48, 96, 192]
    exact_zero = gaussian.flow(0.0, NOISIEST, CLEANEST)
    exact_gain = gaussian.flow(1.0, NOISIEST, CLEANEST) - exact_zero
    errors = []
    for steps in counts:
        zero, gain = affine(over(kind, options, steps), run, gaussian.denoise)
        errors.append(math.hypot(zero - exact_zero, NOISIEST * (gain - exact_gain)))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order] * len(slopes), abs=0.15)


@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_mean_and_std_become_exact(
    kind: Any, options: dict[str, Any], order: int, gaussian: Any, run: Run
) -> None:
    zero, gain = affine(over(kind, options, 300), run, gaussian.denoise)
    # Exact marginals in, so exact marginals out: N(mean, std**2 + sigma**2) at either end.
    std = gain * math.hypot(gaussian.std, NOISIEST)
    tolerance = 0.02 if order == 1 else 3e-4
    assert zero + gain * gaussian.mean == pytest.approx(gaussian.mean, rel=tolerance)
    assert std == pytest.approx(math.hypot(gaussian.std, CLEANEST), rel=tolerance)


def variance_after(
    sampler: Scheduler, run: Run, denoise: Denoise, mean: float, std: float
) -> tuple[float, float]:
    """Exact mean and variance of what a stochastic sampler makes of the exact first marginal.

    Each step is `z' = a * z + b + s * noise`. Two states that share their noise tell a; replaying the generator
    tells the noise; two noises tell b and s.
    """
    levels = sampler.levels()
    states = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    seeds = [3, 3, 4, 4]
    z = states.reshape(4, 1, 1, 1)
    steps = run(sampler, denoise, z, [torch.Generator().manual_seed(seed) for seed in seeds])
    replay = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    first = levels[0]
    average, variance = float(first.alpha) * mean, float((first.alpha * std) ** 2 + first.sigma**2)
    gap, previous = torch.ones(2, dtype=torch.float64), states[:, 0]
    for step in steps:
        now = step.z.reshape(2, 2)
        slope = (now[:, 1] - now[:, 0]) / gap
        rest = now[:, 0] - slope * previous
        noise = randn([2, 1], replay, dtype=torch.float64).flatten()
        scale = float((rest[1] - rest[0]) / (noise[1] - noise[0]))
        offset, gain = float(rest[0] - scale * noise[0]), float(slope[0])
        average, variance = gain * average + offset, gain**2 * variance + scale**2
        previous, gap = now[:, 0], now[:, 1] - now[:, 0]
        if float(gap.abs().min()) < 1e-6:
            pytest.fail("the two states ran together; start them further apart")
    return average, variance


@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_stochastic_samplers_reach_the_exact_mean_and_variance_with_order_one(
    kind: Any, options: dict[str, Any], gaussian: Any, run: Run
) -> None:
    # The variance-preserving form of one grid; the noise is float32 by design, so slopes start from large errors.
    schedule = plugin.VPSchedule(plugin.VPSchedule.Config())
    errors = []
    for steps in (80, 160, 320):
        sampler = over(kind, options, steps, schedule)
        average, variance = variance_after(sampler, run, gaussian.denoise, gaussian.mean, gaussian.std)
        last = sampler.levels()[-1]
        target = float((last.alpha * gaussian.std) ** 2 + last.sigma**2)
        assert average == pytest.approx(float(last.alpha) * gaussian.mean, abs=0.01)
        errors.append(abs(variance - target) / target)
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([1.0, 1.0], abs=0.25)
    assert errors[-1] < 0.05


def test_churn_leaves_the_distribution_as_it_is(gaussian: Any, run: Run, generator: torch.Generator) -> None:
    sampler = plugin.EDMHeun(
        plugin.EDMHeun.Config(steps=80, s_churn=20.0, s_tmin=0.05, s_tmax=10.0), SCHEDULE
    )
    count = 40_000
    z = sampler.levels().prior(torch.randn(count, 1, 1, 1, generator=generator))
    images = run(sampler, gaussian.denoise, z, generator)[-1].z
    error = 4 / math.sqrt(count)
    assert float(images.mean()) == pytest.approx(gaussian.mean, abs=error)
    assert float(images.std()) == pytest.approx(gaussian.std, rel=error)


@pytest.mark.parametrize("name", ["vp", "ve", "scaled_linear"])
def test_from_pure_noise_every_sampler_makes_the_data(
    name: str, sampler_class: Any, gaussian: Any, run: Run, generator: torch.Generator
) -> None:
    kinds = {component.name: component for component in plugin.register_components()}
    schedule = kinds[name](kinds[name].Config())
    sampler = sampler_class(sampler_class.Config(steps=100), schedule)
    count = 4000
    z = sampler.levels().prior(torch.randn(count, 1, 1, 1, generator=generator))
    images = run(sampler, gaussian.denoise, z, generator)[-1].z
    # Standard error, and the discretisation error of 100 first-order steps.
    assert float(images.mean()) == pytest.approx(
        gaussian.mean, abs=4 * gaussian.std / math.sqrt(count) + 0.01
    )
    assert float(images.std()) == pytest.approx(gaussian.std, rel=4 / math.sqrt(2 * count) + 0.05)
