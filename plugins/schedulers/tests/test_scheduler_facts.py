"""What holds for every sampler, whatever it computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ldm_schedulers as plugin
import pytest
import torch
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Denoise, Denoised, NoiseLevel, Step
from ldm_registry.prediction import from_x0, to_epsilon, to_x0
from ldm_registry.vocabulary import Prediction, Scaling

Run = Callable[..., list[Step]]
SCALED_LINEAR = plugin.ScaledLinearSchedule(
    plugin.ScaledLinearSchedule.Config(beta_start=0.00085, beta_end=0.012)
)
ZERO_SNR = plugin.ScaledLinearSchedule(plugin.ScaledLinearSchedule.Config(rescale_zero_snr=True))
VARIANTS: list[Any] = [
    (plugin.DDIM, {"eta": 0.7}),
    (plugin.DDPM, {"variance": "fixed_large"}),
    (plugin.DDPM, {"variance": "learned"}),
    (plugin.DDPM, {"variance": "learned_range"}),
    (plugin.FlowEuler, {"stochastic_sampling": True}),
    (plugin.DPMpp2M, {"solver_type": "heun"}),
    (plugin.PNDM, {"skip_prk_steps": False}),
    (plugin.EDMHeun, {"s_churn": 10.0}),
    (plugin.EDMEuler, {"s_churn": 10.0}),
    (plugin.LMS, {"order": 2}),
    (plugin.UniPC, {"solver_order": 1, "solver_type": "bh1"}),
    (plugin.UniPC, {"solver_order": 3, "predict_x0": False, "lower_order_final": False}),
    (plugin.UniPC, {"disable_corrector": (0, 2, 5)}),
    *(
        (plugin.DPMMultistep, {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver})
        for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
        for order, solver in ((1, "midpoint"), (2, "heun"), (3, "midpoint"))
    ),
]
EVERY: list[Any] = [
    (kind, {}) for kind in plugin.register_components() if kind.kind == "scheduler"
] + VARIANTS


def label(value: object) -> str:
    if isinstance(value, type):
        return str(getattr(value, "name", value))
    return " ".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, dict) else str(value)


every = pytest.mark.parametrize(("kind", "options"), EVERY, ids=label)


def make(kind: Any, schedule: Any = SCALED_LINEAR, **config: Any) -> Any:
    return kind(kind.Config(**config), schedule)


def bumpy(z: Tensor, level: NoiseLevel) -> Denoised:
    """A smooth denoiser that is linear in nothing; a function of the log-SNR and of the normalised state alone."""
    y = z / level.std.to(z)
    shade = torch.tanh(0.3 * level.log_snr).to(z)
    return Denoised(torch.sin(1.7 * y + shade) + 0.3 * y, torch.tanh(y + shade))


def noise(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=generator).to(dtype)


@every
def test_the_true_epsilon_brings_the_clean_latent_back(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    x0, epsilon = noise(generator), noise(generator)
    sampler = make(kind, steps=13, **options)
    z = sampler.levels()[0].add_noise(x0, epsilon)
    if sampler.stochastic:

        def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
            return Denoised(x0, torch.zeros_like(x0))
    else:

        def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
            return Denoised(to_x0(Prediction.EPSILON, epsilon, z, level))

    steps = run(sampler, denoise, z, generator)
    torch.testing.assert_close(steps[-1].z, x0, rtol=0, atol=1e-11)
    if not sampler.stochastic:
        for step in steps:
            torch.testing.assert_close(step.z, step.level.add_noise(x0, epsilon), rtol=0, atol=1e-11)


@every
def test_every_prediction_type_gives_the_same_path(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    def denoise_as(prediction: Prediction) -> Denoise:
        def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
            level = level.normalised()
            answer = bumpy(z, level)
            output = from_x0(prediction, answer.x0, to_epsilon(answer.x0, z, level), level)
            return Denoised(to_x0(prediction, output, z, level), answer.variance)

        return denoise

    sampler = make(kind, steps=13, **options)
    z = sampler.levels().prior(noise(generator))
    paths = [
        torch.stack([step.z for step in run(sampler, denoise_as(one), z, torch.Generator().manual_seed(1))])
        for one in Prediction
    ]
    for path in paths[1:]:
        torch.testing.assert_close(path, paths[0], rtol=0, atol=1e-9)


@every
def test_vp_ve_and_flow_give_the_same_samples_on_one_grid(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    grid = tuple(torch.linspace(-6.0, 7.0, 21, dtype=torch.float64).tolist())
    spaced = {"sigma_spacing": "none"} if kind in (plugin.EDMHeun, plugin.EDMEuler) else {}
    schedules: list[Any] = [plugin.VPSchedule, plugin.VESchedule, plugin.RectifiedFlowSchedule]
    start, results = noise(generator), []
    for schedule in schedules:
        sampler = make(kind, schedule(schedule.Config()), log_snrs=grid, **{**options, **spaced})
        z = sampler.levels().prior(start)
        steps = run(sampler, bumpy, z, torch.Generator().manual_seed(1))
        results.append(torch.stack([step.z / step.level.std for step in steps]))
    assert [schedule.scaling for schedule in schedules] == [Scaling.VP, Scaling.VE, Scaling.FLOW]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("count", "spacing"),
    [
        *itertools.product([1, 2, 3, 13], ["leading", "trailing", "linspace"]),
        (999, "trailing"),
        (1000, "linspace"),
    ],
)
def test_any_number_of_steps_runs(
    sampler_class: Any, count: int, spacing: str, run: Run, generator: torch.Generator
) -> None:
    sampler = make(sampler_class, steps=count, spacing=spacing)
    z = sampler.levels().prior(torch.randn(1, 1, 2, 2, generator=generator))
    steps = run(sampler, lambda z, level: Denoised(0.5 * z), z, generator)
    assert len(steps) == count == len(sampler.levels()) - 1
    assert [step.index for step in steps] == list(range(count))
    assert float(steps[-1].level.sigma) == 0.0
    assert steps[-1].z.isfinite().all()


def test_levels_are_real_although_built_on_the_meta_device(sampler_class: Any) -> None:
    with torch.device("meta"):
        sampler = make(sampler_class, steps=13)
    assert torch.equal(sampler.levels().sigma, make(sampler_class, steps=13).levels().sigma)
    assert not sampler.state_dict()


@every
def test_two_runs_of_one_object_are_bit_identical(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    sampler = make(kind, steps=13, **options)
    z = sampler.levels().prior(noise(generator, torch.float32))
    first = run(sampler, bumpy, z, torch.Generator().manual_seed(1))
    half_way = sampler.trajectory(bumpy, z, torch.Generator().manual_seed(2))
    next(half_way), next(half_way)
    second = run(sampler, bumpy, z, torch.Generator().manual_seed(1))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.z, other.z)
        assert torch.equal(one.x0, other.x0)


@every
def test_steps_end_at_the_levels_in_order_and_the_start_is_left_alone(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    sampler = make(kind, steps=7, **options)
    z = sampler.levels().prior(noise(generator))
    before = z.clone()
    levels = torch.stack([step.level.sigma for step in run(sampler, bumpy, z, generator)])
    assert torch.equal(levels, sampler.levels().sigma[1:])
    assert torch.equal(z, before)


@every
def test_the_declared_randomness_is_the_real_one(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    sampler = make(kind, steps=7, **options)
    z = sampler.levels().prior(noise(generator))
    ends = [run(sampler, bumpy, z, torch.Generator().manual_seed(seed))[-1].z for seed in (1, 2)]
    assert sampler.stochastic is not torch.equal(*ends)


@every
def test_a_sample_does_not_depend_on_its_batch(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    sampler = make(kind, steps=5, **options)
    z = sampler.levels().prior(noise(generator))
    both = run(sampler, bumpy, z, [torch.Generator().manual_seed(seed) for seed in (5, 6)])[-1].z
    alone = run(sampler, bumpy, z[1:], [torch.Generator().manual_seed(6)])[-1].z
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_the_state_is_at_least_float32(
    sampler_class: Any,
    given: torch.dtype,
    kept: torch.dtype,
    run: Run,
    generator: torch.Generator,
) -> None:
    def narrow(z: Tensor, level: NoiseLevel) -> Denoised:
        assert z.dtype is kept
        return Denoised((0.5 * z).to(torch.bfloat16))

    sampler = make(sampler_class, steps=4)
    z = sampler.levels().prior(noise(generator)).to(given)
    assert {step.z.dtype for step in run(sampler, narrow, z, generator)} == {kept}


STARTS_WITHOUT_SIGNAL = [
    plugin.DDPM,
    plugin.DDIM,
    plugin.Euler,
    plugin.EulerAncestral,
    plugin.DPMpp2M,
    plugin.DPMMultistep,
    plugin.UniPC,
    plugin.FlowEuler,
    plugin.FlowHeun,
]


@pytest.mark.parametrize("kind", STARTS_WITHOUT_SIGNAL, ids=label)
@pytest.mark.parametrize(
    "schedule", [ZERO_SNR, plugin.RectifiedFlowSchedule(plugin.RectifiedFlowSchedule.Config())]
)
def test_a_start_without_signal_makes_the_data(
    kind: Any, schedule: Any, gaussian: Any, run: Run, generator: torch.Generator
) -> None:
    sampler = make(kind, schedule, steps=100)
    assert float(sampler.levels()[0].alpha) == 0.0
    z = sampler.levels().prior(torch.randn(4000, 1, 1, 1, generator=generator, dtype=torch.float64))
    images = run(sampler, gaussian.denoise, z, generator)[-1].z
    assert float(images.mean()) == pytest.approx(gaussian.mean, abs=0.05)
    assert float(images.std()) == pytest.approx(gaussian.std, rel=0.06)


@pytest.mark.parametrize(
    "kind", [plugin.Heun, plugin.PNDM, plugin.EDMHeun, plugin.EDMEuler, plugin.LMS], ids=label
)
def test_solvers_over_sigma_over_alpha_refuse_a_start_without_signal(kind: Any) -> None:
    options = {"sigma_spacing": "none"} if kind in (plugin.EDMHeun, plugin.EDMEuler) else {}
    with pytest.raises(ContractError, match=r"alpha = 0[\s\S]*infinite[\s\S]*sigma_max"):
        make(kind, ZERO_SNR, steps=10, **options)
    bounded = make(kind, ZERO_SNR, steps=10, spacing="linspace", sigma_max=80.0, **options)
    assert float(bounded.levels()[0].log_snr) == pytest.approx(-2 * math.log(80.0), abs=0.01)


def test_first_order_samplers_are_one_map(run: Run, generator: torch.Generator) -> None:
    z = noise(generator)

    def end(kind: Any, **options: Any) -> Tensor:
        return run(make(kind, steps=13, **options), bumpy, z, torch.Generator().manual_seed(1))[-1].z

    ddim = end(plugin.DDIM)
    for other in (end(plugin.Euler), end(plugin.FlowEuler), end(plugin.DPMpp2M, order=1)):
        torch.testing.assert_close(other, ddim, rtol=0, atol=1e-12)
    ddpm = end(plugin.DDPM)
    for other in (
        end(plugin.EulerAncestral),
        end(plugin.DDIM, eta=1.0),
        end(plugin.DDPM, variance="fixed_small_log"),
    ):
        torch.testing.assert_close(other, ddpm, rtol=0, atol=1e-12)


def test_learned_ranges_span_the_two_fixed_variances(run: Run, generator: torch.Generator) -> None:
    z = noise(generator)

    def end(share: float, **options: Any) -> Tensor:
        def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
            return Denoised(bumpy(z, level).x0, torch.full_like(z, share))

        return run(make(plugin.DDPM, steps=13, **options), denoise, z, torch.Generator().manual_seed(1))[-1].z

    torch.testing.assert_close(end(-1.0, variance="learned_range"), end(0.0, variance="fixed_small"))
    torch.testing.assert_close(end(1.0, variance="learned_range"), end(0.0, variance="fixed_large"))
    assert not torch.allclose(end(0.0, variance="learned_range"), end(0.0, variance="fixed_large"), atol=1e-3)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_needs_a_denoiser_that_predicts_one(
    variance: str, gaussian: Any, run: Run, generator: torch.Generator
) -> None:
    with pytest.raises(ContractError, match="predicts its variance"):
        run(make(plugin.DDPM, steps=3, variance=variance), gaussian.denoise, noise(generator), generator)


@every
def test_nothing_is_clipped_by_default(
    kind: Any, options: dict[str, Any], run: Run, generator: torch.Generator
) -> None:
    far = torch.full((2, 3, 4, 4), 25.0, dtype=torch.float64)
    sampler = make(kind, steps=5, **options)
    z = sampler.levels().prior(noise(generator))
    end = run(sampler, lambda z, level: Denoised(far, torch.zeros_like(far)), z, generator)[-1]
    torch.testing.assert_close(end.z, far, rtol=1e-12, atol=0)


def test_clipping_bounds_the_clean_estimate(sampler_class: Any, run: Run, generator: torch.Generator) -> None:
    sampler = make(sampler_class, steps=5, clip=0.1)
    steps = run(sampler, bumpy, sampler.levels().prior(noise(generator)), generator)
    if sampler_class is plugin.PNDM:
        assert all(step.x0.abs().max() <= 0.1 + 1e-12 for step in steps)
    else:
        assert max(float(step.x0.abs().max()) for step in steps) == 0.1


def test_dynamic_thresholding_scales_by_the_quantile_of_each_sample(run: Run) -> None:
    x0 = (
        torch.stack([torch.linspace(-4, 4, 101), torch.linspace(-0.5, 0.5, 101)])
        .double()
        .reshape(2, 1, 1, 101)
    )
    sampler = make(plugin.DDIM, steps=1, threshold_ratio=0.5, threshold_max=3.0)
    limited = run(sampler, lambda z, level: Denoised(x0), torch.zeros_like(x0))[-1].x0
    # The median of |x0| is 2 for the first sample; for the second it is 0.25, and 1 is the least divisor.
    torch.testing.assert_close(limited[0], x0[0].clamp(-2, 2) / 2, rtol=1e-6, atol=1e-6)
    assert torch.equal(limited[1], x0[1])
