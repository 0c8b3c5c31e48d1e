from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ldm_schedulers as plugin
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ldm_registry.interfaces import NoiseLevel, NoiseSchedule
from ldm_registry.vocabulary import Kind, Scaling

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def build(kind: Any, **config: Any) -> Any:
    return kind(kind.Config(**config))


DISCRETE: dict[str, Any] = {
    "linear": build(plugin.LinearSchedule),
    "scaled_linear": build(plugin.ScaledLinearSchedule, beta_start=0.00085, beta_end=0.012),
    "squaredcos_cap_v2": build(plugin.SquaredCosSchedule),
    "sigmoid": build(plugin.SigmoidSchedule),
    "trained_betas": build(plugin.TrainedBetasSchedule, betas=(0.1, 0.05, 0.2, 0.4)),
    "linear, zero SNR": build(plugin.LinearSchedule, rescale_zero_snr=True),
    "scaled_linear, zero SNR": build(plugin.ScaledLinearSchedule, rescale_zero_snr=True, steps=50),
    "squaredcos_cap_v2, zero SNR": build(plugin.SquaredCosSchedule, rescale_zero_snr=True),
    "trained_betas, zero SNR": build(plugin.TrainedBetasSchedule, betas=(0.1, 0.05, 0.2, 1.0)),
}
CONTINUOUS: dict[str, Any] = {
    "vp": build(plugin.VPSchedule),
    "vp from 0": build(plugin.VPSchedule, time_min=0.0),
    "vp with constant rate": build(plugin.VPSchedule, beta_d=0.0, beta_min=5.0),
    "ve": build(plugin.VESchedule),
    "cosine": build(plugin.CosineSchedule),
    "rectified_flow": build(plugin.RectifiedFlowSchedule),
    "rectified_flow, shift 3": build(plugin.RectifiedFlowSchedule, shift=3.0),
}
ALL = DISCRETE | CONTINUOUS


def linear(step: int) -> float:
    return 0.0001 + (0.02 - 0.0001) * step / 999


def scaled_linear(step: int) -> float:
    return (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * step / 999) ** 2


def sigmoid(step: int) -> float:
    return 0.0001 + (0.02 - 0.0001) / (1.0 + math.exp(6.0 - 12.0 * step / 999))


def squaredcos(step: int) -> float:
    def bar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return min(1 - bar((step + 1) / 1000) / bar(step / 1000), 0.999)


@pytest.mark.parametrize(
    ("name", "beta"),
    [
        ("linear", linear),
        ("scaled_linear", scaled_linear),
        ("sigmoid", sigmoid),
        ("squaredcos_cap_v2", squaredcos),
    ],
)
def test_a_discrete_schedule_is_the_product_of_its_betas(name: str, beta: Callable[[int], float]) -> None:
    log_alpha_bar = [
        math.fsum(math.log1p(-beta(step)) for step in range(last + 1)) for last in range(0, 1000, 37)
    ]
    expected = torch.tensor(log_alpha_bar, **DOUBLE)
    level = DISCRETE[name].level(torch.arange(0, 1000, 37))
    torch.testing.assert_close(2 * level.alpha.log(), expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(level.sigma**2, -torch.expm1(expected), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {}),
        ("scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012}),
        ("squaredcos_cap_v2", {}),
        ("sigmoid", {}),
    ],
)
@pytest.mark.parametrize("rescale", [False, True])
def test_alphas_equal_those_of_diffusers_to_its_float32_rounding(
    name: str, options: dict[str, float], rescale: bool
) -> None:
    diffusers: Any = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=rescale, **options)
    kind = {component.name: component for component in plugin.register_components()}[name]
    level = build(kind, rescale_zero_snr=rescale, **options).level(torch.arange(1000))
    expected = reference.alphas_cumprod.double()
    torch.testing.assert_close(level.alpha**2, expected, rtol=2e-4 if rescale else 2e-5, atol=1e-7)


def test_a_listed_schedule_is_the_formula_that_its_betas_came_from() -> None:
    listed = build(plugin.TrainedBetasSchedule, betas=tuple(linear(step) for step in range(1000)))
    times = torch.linspace(0, 999, 77, **DOUBLE)
    torch.testing.assert_close(
        listed.level(times).log_snr, DISCRETE["linear"].level(times).log_snr, rtol=1e-10, atol=1e-10
    )


def test_vp_has_the_marginals_of_its_differential_equation() -> None:
    times = torch.linspace(0.001, 1, 200, **DOUBLE)
    level = CONTINUOUS["vp"].level(times)
    alpha = torch.exp(-0.25 * 19.9 * times**2 - 0.5 * 0.1 * times)
    torch.testing.assert_close(level.alpha, alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(level.sigma, (1 - alpha**2).sqrt(), rtol=1e-11, atol=0)


def test_ve_grows_geometrically() -> None:
    level = CONTINUOUS["ve"].level(torch.linspace(0, 1, 101, **DOUBLE))
    assert torch.equal(level.alpha, torch.ones(101, **DOUBLE))
    torch.testing.assert_close(level.sigma[50], torch.tensor(0.4, **DOUBLE))  # sqrt(0.002 * 80)
    torch.testing.assert_close(level.sigma[1:] / level.sigma[:-1], torch.full((100,), 40000**0.01, **DOUBLE))


def test_cosine_turns_at_constant_speed_between_its_log_snrs() -> None:
    level = CONTINUOUS["cosine"].level(torch.linspace(0, 1, 51, **DOUBLE))
    steps = torch.atan2(level.sigma, level.alpha).diff()
    torch.testing.assert_close(steps, steps.mean().expand(50), rtol=1e-10, atol=0)
    torch.testing.assert_close(level.log_snr[[0, -1]], torch.tensor([15.0, -15.0], **DOUBLE))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_is_the_shifted_straight_line(shift: float) -> None:
    times = torch.linspace(0, 1, 101, **DOUBLE)
    level = build(plugin.RectifiedFlowSchedule, shift=shift).level(times)
    expected = shift * times / (1 + (shift - 1) * times)
    torch.testing.assert_close(level.sigma, expected)
    torch.testing.assert_close(level.alpha, 1 - expected)
    assert level.alpha[-1] == 0
    assert level.sigma[0] == 0


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_noise_grows_with_time_and_keeps_the_scaling(schedule: Any) -> None:
    low, high = schedule.time_range
    level = schedule.level(torch.linspace(low, high, 501, **DOUBLE))
    assert (level.log_snr.diff() < 0).all()
    total = {
        Scaling.VP: level.alpha**2 + level.sigma**2,
        Scaling.VE: level.alpha,
        Scaling.FLOW: level.alpha + level.sigma,
    }[schedule.scaling]
    torch.testing.assert_close(total, torch.ones(501, **DOUBLE))
    assert level.alpha.dtype == level.sigma.dtype == torch.float64


@pytest.mark.parametrize("schedule", DISCRETE.values(), ids=DISCRETE)
@pytest.mark.parametrize("scaling", list(Scaling))
def test_whole_steps_come_back_exactly_from_every_scaling(schedule: Any, scaling: Scaling) -> None:
    times = torch.arange(schedule.steps, **DOUBLE)
    level = schedule.level(times)
    finite = len(times) - int(scaling is Scaling.VE and bool(level.alpha[-1] == 0))
    level = NoiseLevel.at(level.log_snr[:finite], scaling)
    assert torch.equal(schedule.time(level), times[:finite])
    assert torch.equal(schedule.time(level.normalised()), times[:finite])
    rounded = NoiseLevel(level.alpha.float(), level.sigma.float())
    assert torch.equal(schedule.time(rounded), times[:finite])


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
@given(fraction=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_time_is_the_inverse_of_level(schedule: Any, fraction: float) -> None:
    low, high = schedule.time_range
    time = torch.tensor(low + fraction * (high - low), **DOUBLE)
    # A whole step attracts times within the rounding of float32: 1e-4 of a step at most.
    assert abs(float(schedule.time(schedule.level(time)) - time)) <= 2e-4 * (1 if schedule.steps else 1e-6)


@pytest.mark.parametrize("schedule", DISCRETE.values(), ids=DISCRETE)
def test_between_steps_log_sigma_over_alpha_is_linear(schedule: Any) -> None:
    at = schedule.level(torch.tensor([0.0, 0.25, 1.0], **DOUBLE))
    log_ratio = at.sigma.log() - at.alpha.log()
    torch.testing.assert_close(log_ratio[1], 0.75 * log_ratio[0] + 0.25 * log_ratio[2], rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [name for name in DISCRETE if "zero SNR" in name])
def test_a_zero_terminal_snr_is_exact(name: str) -> None:
    schedule = DISCRETE[name]
    last = schedule.level(torch.tensor(schedule.steps - 1))
    assert (float(last.alpha), float(last.sigma)) == (0.0, 1.0)
    assert schedule.time(last) == schedule.steps - 1
    before = schedule.level(torch.tensor(schedule.steps - 1.5, **DOUBLE))
    assert 0 < before.alpha < schedule.level(torch.tensor(schedule.steps - 2)).alpha


def test_rescaling_keeps_the_first_level() -> None:
    first = torch.tensor(0)
    kept, plain = DISCRETE["linear, zero SNR"].level(first), DISCRETE["linear"].level(first)
    torch.testing.assert_close(kept.sigma, plain.sigma, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_levels_beyond_the_range_are_clamped_to_its_ends(schedule: Any) -> None:
    ends = NoiseLevel(torch.tensor([1.0, 0.0], **DOUBLE), torch.tensor([0.0, 1.0], **DOUBLE))
    assert tuple(schedule.time(ends).tolist()) == schedule.time_range


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_times_beyond_the_range_are_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match="outside of this noise schedule's range"):
        schedule.level(torch.tensor(schedule.time_range[1] + 1.0))


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_levels_and_times_keep_their_shape(schedule: Any, shape: tuple[int, ...]) -> None:
    level = schedule.level(torch.full(shape, schedule.time_range[1]))
    assert level.alpha.shape == level.sigma.shape == schedule.time(level).shape == shape


@pytest.mark.parametrize(
    "kind", [kind for kind in plugin.register_components() if kind.kind is Kind.SCHEDULE]
)
def test_tables_are_real_although_built_on_the_meta_device(kind: type[NoiseSchedule]) -> None:
    config = {"betas": (0.1, 0.2, 0.3)} if kind.name == "trained_betas" else {}
    with torch.device("meta"):
        schedule = build(kind, **config)
    schedule.to(torch.bfloat16)
    assert not schedule.state_dict()
    middle = torch.tensor(sum(schedule.time_range) / 2)
    assert float(schedule.level(middle).log_snr) == float(build(kind, **config).level(middle).log_snr)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (plugin.LinearSchedule, {"beta_end": 1.5}),
        (plugin.LinearSchedule, {"steps": 1}),
        (plugin.ScaledLinearSchedule, {"beta_begin": 0.1}),
        (plugin.TrainedBetasSchedule, {"betas": (0.1, 1.0, 0.1)}),
        (plugin.TrainedBetasSchedule, {"betas": (0.1, -0.1)}),
        (plugin.VESchedule, {"sigma_min": 2.0, "sigma_max": 1.0}),
        (plugin.CosineSchedule, {"log_snr_min": 2.0, "log_snr_max": 1.0}),
        (plugin.VPSchedule, {"time_min": 1.0}),
        (plugin.RectifiedFlowSchedule, {"shift": 0.0}),
    ],
)
def test_configs_that_describe_no_schedule_are_refused(kind: type, config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(kind, **config)
