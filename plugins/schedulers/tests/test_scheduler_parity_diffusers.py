"""The same network under our samplers and under those of diffusers, in one process.

diffusers keeps its alphas in float32 and steps in float32; agreement is to that rounding. Where it has a known
fault the comparison keeps to what it gets right, and says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ldm_schedulers as plugin
import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_registry.interfaces import Denoised, NoiseLevel, Scheduler, Step, randn
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Prediction

diffusers: Any = pytest.importorskip("diffusers")

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Run = Callable[..., list[Step]]
Network = Callable[[Tensor, float], Tensor]

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
TRAINED = plugin.ScaledLinearSchedule(plugin.ScaledLinearSchedule.Config(**BETAS))
RESCALED = plugin.ScaledLinearSchedule(plugin.ScaledLinearSchedule.Config(**BETAS, rescale_zero_snr=True))
FLOW = plugin.RectifiedFlowSchedule(plugin.RectifiedFlowSchedule.Config())
DIFFUSERS_BETAS = {"beta_schedule": "scaled_linear", **BETAS}
PREDICTIONS = {
    "epsilon": Prediction.EPSILON,
    "v_prediction": Prediction.V,
    "sample": Prediction.X0,
}


def network(z: Tensor, time: float) -> Tensor:
    """Smooth, not linear, and different at every time."""
    return torch.tanh(0.9 * z + 0.4 * math.sin(time / 160)) + 0.1 * z


def timeless(z: Tensor, time: float) -> Tensor:
    return network(z, 0.0)


def noise() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def ours(
    sampler: Scheduler,
    schedule: Any,
    run: Run,
    *,
    prediction: Prediction = Prediction.EPSILON,
    net: Network = network,
    variance: Network | None = None,
) -> tuple[Tensor, list[float]]:
    """The last state, and the times that the network was asked at."""
    asked: list[float] = []

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        z, level = z / level.std.to(z), level.normalised()
        asked.append(float(schedule.time(level)))
        output = net(z, asked[-1])
        learned = None if variance is None else variance(z, asked[-1])
        return Denoised(to_x0(prediction, output, z, level), learned)

    steps = run(sampler, denoise, sampler.levels().prior(noise()), torch.Generator().manual_seed(1))
    return steps[-1].z, asked


def theirs(
    reference: Any,
    *,
    net: Network = network,
    variance: Network | None = None,
    **options: Any,
) -> tuple[Tensor, list[float]]:
    """The same from a scheduler of diffusers whose timesteps are set."""
    takes_generator = "generator" in reference.step.__code__.co_varnames
    if takes_generator:
        options["generator"] = torch.Generator().manual_seed(1)
    sample = noise() * start_of(reference)
    asked = []
    for timestep in reference.timesteps:
        scaled = reference.scale_model_input(sample, timestep)
        output = net(scaled, float(timestep))
        if variance is not None:
            output = torch.cat([output, variance(scaled, float(timestep))], dim=1)
        asked.append(float(timestep))
        sample = reference.step(output, timestep, sample, **options).prev_sample
    return sample, asked


def start_of(reference: Any) -> float:
    """The std of the start for unit-variance data: ours, so that the comparison is of the steps alone."""
    if "Euler" in type(reference).__name__ or "Heun" in type(reference).__name__:
        return float((reference.sigmas[0] ** 2 + 1) ** 0.5)
    return 1.0


def make(kind: Any, schedule: Any = TRAINED, tokens: int | None = None, **config: Any) -> Any:
    return kind(kind.Config(**config), schedule, tokens)


def agree(one: tuple[Tensor, list[float]], other: tuple[Tensor, list[float]], atol: float = 3e-4) -> None:
    assert one[1] == pytest.approx(other[1], abs=2e-2)
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=atol)


# fixed_large is not compared over trailing times: diffusers adds noise in a last step that does not start at
# time 0, and ours ends clean.
@pytest.mark.parametrize(
    ("variance", "spacing"),
    [
        *itertools.product(["fixed_small", "fixed_small_log"], ["leading", "trailing", "linspace"]),
        ("fixed_large", "leading"),
        ("fixed_large", "linspace"),
    ],
)
def test_ddpm_with_fixed_variance(variance: str, spacing: str, run: Run) -> None:
    reference = diffusers.DDPMScheduler(
        **DIFFUSERS_BETAS, variance_type=variance, clip_sample=False, timestep_spacing=spacing
    )
    reference.set_timesteps(20)
    sampler = make(plugin.DDPM, steps=20, spacing=spacing, variance=variance)
    agree(ours(sampler, TRAINED, run), theirs(reference))


def test_ddpm_fixed_large_log_is_fixed_large(run: Run) -> None:
    # diffusers takes the square root of a negative logarithm there and returns NaN.
    ends = [
        ours(make(plugin.DDPM, steps=20, variance=variance), TRAINED, run)[0]
        for variance in ("fixed_large", "fixed_large_log")
    ]
    assert torch.equal(*ends)
    assert ends[0].isfinite().all()


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_ddpm_with_learned_variance(variance: str, run: Run) -> None:
    def learned(z: Tensor, time: float) -> Tensor:
        return 0.01 * torch.sigmoid(z) if variance == "learned" else torch.tanh(z + time / 500)

    reference = diffusers.DDPMScheduler(
        **DIFFUSERS_BETAS, variance_type=variance, clip_sample=False, timestep_spacing="leading"
    )
    reference.set_timesteps(20)
    sampler = make(plugin.DDPM, steps=20, spacing="leading", variance=variance)
    agree(ours(sampler, TRAINED, run, variance=learned), theirs(reference, variance=learned))


def test_ddpm_over_every_step_with_clipping_on_pixels(run: Run) -> None:
    reference = diffusers.DDPMScheduler(num_train_timesteps=100, clip_sample=True)
    reference.set_timesteps(100)
    schedule = plugin.LinearSchedule(plugin.LinearSchedule.Config(steps=100))
    agree(ours(make(plugin.DDPM, schedule, clip=1.0), schedule, run), theirs(reference))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta: float, prediction: str, run: Run) -> None:
    reference = diffusers.DDIMScheduler(
        **DIFFUSERS_BETAS, clip_sample=False, prediction_type=prediction, timestep_spacing="trailing"
    )
    reference.set_timesteps(20)
    sampler = make(plugin.DDIM, steps=20, eta=eta)
    agree(ours(sampler, TRAINED, run, prediction=PREDICTIONS[prediction]), theirs(reference, eta=eta))


@pytest.mark.parametrize(("final", "to_one"), [("zero", True), ("sigma_min", False)])
@pytest.mark.parametrize("offset", [0, 1])
def test_ddim_leading_and_its_final_level(offset: int, final: str, to_one: bool, run: Run) -> None:
    # Trailing where N does not divide T, and linspace, are left out: diffusers steps back by T // N there, to
    # levels that it does not ask the network at next, and leaves noise behind.
    reference = diffusers.DDIMScheduler(
        **DIFFUSERS_BETAS, clip_sample=False, steps_offset=offset, set_alpha_to_one=to_one
    )
    reference.set_timesteps(13)
    sampler = make(plugin.DDIM, steps=13, spacing="leading", steps_offset=offset, final=final)
    agree(ours(sampler, TRAINED, run), theirs(reference))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddim_ends_clean_where_a_uniform_stride_would_not(spacing: str, gaussian: Any, run: Run) -> None:
    sampler = make(plugin.DDIM, steps=13, spacing=spacing)
    end = run(sampler, gaussian.denoise, sampler.levels().prior(noise()))[-1]
    assert float(end.level.sigma) == 0.0
    torch.testing.assert_close(end.z, end.x0)


@pytest.mark.parametrize("rederive", [True, False])
def test_ddim_with_a_clipped_estimate(rederive: bool, run: Run) -> None:
    reference = diffusers.DDIMScheduler(**DIFFUSERS_BETAS, clip_sample=True, clip_sample_range=0.5)
    reference.set_timesteps(20)
    sampler = make(plugin.DDIM, steps=20, spacing="leading", clip=0.5, rederive_epsilon=rederive)
    agree(ours(sampler, TRAINED, run), theirs(reference, use_clipped_model_output=rederive))


def test_ddim_with_dynamic_thresholding(run: Run) -> None:
    reference = diffusers.DDIMScheduler(
        **DIFFUSERS_BETAS,
        clip_sample=False,
        thresholding=True,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=1.5,
    )
    reference.set_timesteps(20)
    sampler = make(
        plugin.DDIM,
        steps=20,
        spacing="leading",
        threshold_ratio=0.9,
        threshold_max=1.5,
        rederive_epsilon=False,
    )
    agree(ours(sampler, TRAINED, run), theirs(reference))


def test_ddim_from_zero_terminal_snr(run: Run) -> None:
    reference = diffusers.DDIMScheduler(
        **DIFFUSERS_BETAS,
        clip_sample=False,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    reference.set_timesteps(20)
    sampler = make(plugin.DDIM, RESCALED, steps=20)
    agree(ours(sampler, RESCALED, run, prediction=Prediction.V), theirs(reference))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    ("steps", "offset", "spacing"), [(20, 1, "leading"), (50, 0, "leading"), (10, 0, "trailing")]
)
def test_pndm(steps: int, offset: int, spacing: str, skip: bool, run: Run) -> None:
    reference = diffusers.PNDMScheduler(
        **DIFFUSERS_BETAS, skip_prk_steps=skip, steps_offset=offset, timestep_spacing=spacing
    )
    reference.set_timesteps(steps)
    sampler = make(
        plugin.PNDM, steps=steps, spacing=spacing, steps_offset=offset, skip_prk_steps=skip, final="sigma_min"
    )
    agree(ours(sampler, TRAINED, run), theirs(reference), atol=2e-3)


# 10 steps of linspace fall on whole times; between two, diffusers interpolates sigma and we its logarithm.
SPACINGS = [("leading", 13, 1), ("trailing", 13, 0), ("linspace", 10, 0)]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("spacing", "steps", "offset"), SPACINGS)
def test_euler(spacing: str, steps: int, offset: int, prediction: str, run: Run) -> None:
    reference = diffusers.EulerDiscreteScheduler(
        **DIFFUSERS_BETAS, timestep_spacing=spacing, steps_offset=offset, prediction_type=prediction
    )
    reference.set_timesteps(steps)
    sampler = make(plugin.Euler, steps=steps, spacing=spacing, steps_offset=offset)
    agree(ours(sampler, TRAINED, run, prediction=PREDICTIONS[prediction]), theirs(reference))


@pytest.mark.parametrize("sigmas", ["karras", "exponential"])
@pytest.mark.parametrize(
    ("kind", "reference_kind", "final", "options"),
    [
        (plugin.Euler, diffusers.EulerDiscreteScheduler, "zero", {}),
        (plugin.Euler, diffusers.EulerDiscreteScheduler, "sigma_min", {"final_sigmas_type": "sigma_min"}),
        (plugin.Heun, diffusers.HeunDiscreteScheduler, "zero", {}),
        (plugin.EDMHeun, diffusers.HeunDiscreteScheduler, "zero", {}),
    ],
)
def test_sigma_spacings(
    kind: Any, reference_kind: Any, final: str, options: dict[str, Any], sigmas: str, run: Run
) -> None:
    reference = reference_kind(
        **DIFFUSERS_BETAS, **options, **{f"use_{sigmas}_sigmas": True}, timestep_spacing="linspace"
    )
    reference.set_timesteps(13)
    sampler = make(kind, steps=13, sigma_spacing=sigmas, final=final)
    end, asked = theirs(reference)
    # Theirs is in units of z / alpha, and alpha is not quite 1 at sigma_min.
    agree(ours(sampler, TRAINED, run), (end * float(sampler.levels().alpha[-1]), asked))


def test_euler_over_listed_times_and_sigmas(run: Run) -> None:
    reference = diffusers.EulerDiscreteScheduler(**DIFFUSERS_BETAS)
    reference.set_timesteps(timesteps=[950, 600, 590, 200, 7])
    agree(ours(make(plugin.Euler, timesteps=(950, 600, 590, 200, 7)), TRAINED, run), theirs(reference))
    reference.set_timesteps(sigmas=[12.0, 5.0, 1.5, 0.3, 0.0])
    agree(ours(make(plugin.Euler, sigmas=(12.0, 5.0, 1.5, 0.3, 0.0)), TRAINED, run), theirs(reference))


def test_euler_from_zero_terminal_snr(run: Run) -> None:
    reference = diffusers.EulerDiscreteScheduler(
        **DIFFUSERS_BETAS,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    reference.set_timesteps(20)
    # diffusers starts at a sigma of 4096 in place of infinity.
    agree(
        ours(make(plugin.Euler, RESCALED, steps=20), RESCALED, run, prediction=Prediction.V),
        theirs(reference),
        1e-3,
    )


@pytest.mark.parametrize(("spacing", "steps", "offset"), SPACINGS)
def test_euler_ancestral(spacing: str, steps: int, offset: int, run: Run) -> None:
    reference = diffusers.EulerAncestralDiscreteScheduler(
        **DIFFUSERS_BETAS, timestep_spacing=spacing, steps_offset=offset
    )
    reference.set_timesteps(steps)
    sampler = make(plugin.EulerAncestral, steps=steps, spacing=spacing, steps_offset=offset)
    agree(ours(sampler, TRAINED, run), theirs(reference), atol=1e-3)


@pytest.mark.parametrize(("spacing", "steps", "offset"), SPACINGS)
def test_heun(spacing: str, steps: int, offset: int, run: Run) -> None:
    reference = diffusers.HeunDiscreteScheduler(
        **DIFFUSERS_BETAS, timestep_spacing=spacing, steps_offset=offset
    )
    reference.set_timesteps(steps)
    sampler = make(plugin.Heun, steps=steps, spacing=spacing, steps_offset=offset)
    agree(ours(sampler, TRAINED, run), theirs(reference), atol=1e-3)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    ("steps", "final", "lower"), [(20, "zero", True), (10, "sigma_min", True), (10, "sigma_min", False)]
)
def test_dpmpp_2m(
    order: int, solver: str, spacing: str, steps: int, final: str, lower: bool, run: Run
) -> None:
    reference = diffusers.DPMSolverMultistepScheduler(
        **DIFFUSERS_BETAS,
        solver_order=order,
        solver_type=solver,
        timestep_spacing=spacing,
        final_sigmas_type=final,
        lower_order_final=lower,
    )
    reference.set_timesteps(steps)
    sampler = make(
        plugin.DPMpp2M,
        steps=steps,
        order=order,
        solver_type=solver,
        spacing=spacing,
        final=final,
        lower_order_final=lower,
    )
    agree(ours(sampler, TRAINED, run), theirs(reference))


def test_dpmpp_2m_with_karras_sigmas(run: Run) -> None:
    reference = diffusers.DPMSolverMultistepScheduler(**DIFFUSERS_BETAS, use_karras_sigmas=True)
    reference.set_timesteps(20)
    sampler = make(plugin.DPMpp2M, steps=20, sigma_spacing="karras")
    # diffusers rounds the times that it tells the network, so this network does not look at them.
    one, other = ours(sampler, TRAINED, run, net=timeless), theirs(reference, net=timeless)
    assert one[1] == pytest.approx(other[1], abs=0.51)
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=3e-4)


def flow_ours(sampler: Scheduler, run: Run) -> tuple[Tensor, list[float]]:
    asked: list[float] = []

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        asked.append(1000 * float(FLOW.time(level)))
        return Denoised(to_x0(Prediction.VELOCITY, network(z, asked[-1]), z, level))

    return run(sampler, denoise, sampler.levels().prior(noise()))[-1].z, asked


def flow_theirs(reference: Any) -> tuple[Tensor, list[float]]:
    sample, asked = noise(), []
    for timestep in reference.timesteps:
        asked.append(float(timestep))
        sample = reference.step(network(sample, asked[-1]), timestep, sample).prev_sample
    return sample, asked


FLOWS = [
    (plugin.FlowEuler, diffusers.FlowMatchEulerDiscreteScheduler),
    (plugin.FlowHeun, diffusers.FlowMatchHeunDiscreteScheduler),
]


@pytest.mark.parametrize(("kind", "reference_kind"), FLOWS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_with_a_static_shift(kind: Any, reference_kind: Any, shift: float, run: Run) -> None:
    reference = reference_kind(shift=shift)
    reference.set_timesteps(10)
    # diffusers takes the clean end, 1/1000, through the shift twice.
    config: dict[str, Any] = {"shift": shift, "sigma_min": shift / 999}
    agree(flow_ours(make(kind, FLOW, steps=10, spacing="linspace", **config), run), flow_theirs(reference))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("terminal", [None, 0.1])
def test_flow_matching_with_a_dynamic_shift(kind: str, terminal: float | None, run: Run) -> None:
    reference = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type=kind, shift_terminal=terminal
    )
    tokens = 1024
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    reference.set_timesteps(sigmas=np.linspace(1.0, 1 / 10, 10), mu=mu)
    sampler = make(plugin.FlowEuler, FLOW, tokens, steps=10, dynamic_shift=kind, shift_terminal=terminal)
    agree(flow_ours(sampler, run), flow_theirs(reference))


def test_flow_matching_with_fresh_noise(run: Run) -> None:
    reference = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    reference.set_timesteps(sigmas=np.linspace(1.0, 1 / 10, 10))
    generator, sample = torch.Generator().manual_seed(1), noise()
    for timestep in reference.timesteps:
        velocity = network(sample, float(timestep))
        sample = reference.step(velocity, timestep, sample, generator=generator).prev_sample
    sampler = make(plugin.FlowEuler, FLOW, steps=10, stochastic_sampling=True)

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        return Denoised(to_x0(Prediction.VELOCITY, network(z, 1000 * float(FLOW.time(level))), z, level))

    end = run(sampler, denoise, noise(), torch.Generator().manual_seed(1))[-1].z
    torch.testing.assert_close(end, sample, rtol=0, atol=3e-4)


def preconditioned(z: Tensor, sigma: float) -> Tensor:
    """x0 from a network inside EDM's preconditioning (Table 1, Karras et al. 2022), data of std 0.5."""
    norm = math.hypot(sigma, 0.5)
    inner = network(z / norm, 0.25 * math.log(sigma))
    return 0.25 / norm**2 * z + sigma * 0.5 / norm * inner


def test_euler_over_the_levels_of_edm(run: Run) -> None:
    reference = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    reference.set_timesteps(18)
    sample = 80.0 * noise()
    for timestep in reference.timesteps:
        scaled = reference.scale_model_input(sample, timestep)
        sample = reference.step(network(scaled, float(timestep)), timestep, sample).prev_sample
    schedule = plugin.VESchedule(plugin.VESchedule.Config())
    sampler = make(plugin.Euler, schedule, steps=18, sigma_spacing="karras")
    end = run(sampler, lambda z, level: Denoised(preconditioned(z, float(level.sigma))), 80.0 * noise())[-1].z
    torch.testing.assert_close(end, sample, rtol=0, atol=3e-4)


@pytest.mark.parametrize("churn", [0.0, 8.0])
def test_edm_heun_is_algorithm_two(churn: float, run: Run) -> None:
    steps, rho = 18, 7
    times = [
        (80 ** (1 / rho) + index / (steps - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        for index in range(steps)
    ]
    generator, x = torch.Generator().manual_seed(1), 80.0 * noise().double()
    for time, following in zip(times, [*times[1:], 0.0], strict=True):
        gamma = min(churn / steps, math.sqrt(2) - 1) if 0.05 <= time <= 50 else 0.0
        raised = time + gamma * time
        if gamma > 0:
            fresh = randn(x.shape, generator, dtype=torch.float64)
            x = x + math.sqrt(raised**2 - time**2) * 1.003 * fresh
        slope = (x - preconditioned(x, raised)) / raised
        ahead = x + (following - raised) * slope
        if following != 0:
            slope = 0.5 * (slope + (ahead - preconditioned(ahead, following)) / following)
            ahead = x + (following - raised) * slope
        x = ahead
    schedule = plugin.VESchedule(plugin.VESchedule.Config())
    sampler = make(
        plugin.EDMHeun, schedule, steps=steps, s_churn=churn, s_tmin=0.05, s_tmax=50.0, s_noise=1.003
    )
    end = run(
        sampler,
        lambda z, level: Denoised(preconditioned(z, float(level.sigma))),
        80.0 * noise().double(),
        torch.Generator().manual_seed(1),
    )[-1].z
    torch.testing.assert_close(end, x, rtol=0, atol=1e-10)
