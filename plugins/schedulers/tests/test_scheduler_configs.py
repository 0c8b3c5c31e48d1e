"""Scheduler configs of diffusers, read and written: every key, defaults, refusals, and there and back again."""

from __future__ import annotations

import inspect
import itertools
import json
from typing import Any

import pytest

pytest.importorskip("diffusers")

import diffusers
import ldm_schedulers as plugin
import scheduler_grid
import side_by_side
import torch
from diffusers_in_double import double
from ldm_schedulers.diffusers import ddim, ddpm, euler, flow, heun, pndm
from scheduler_grid import FAMILIES, Cell

from ldm_registry.errors import SpecError
from ldm_registry.foreign import ForeignScheduler
from ldm_registry.vocabulary import Prediction

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates, and divides by zero where sigma or alpha is 0.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
]

MODELS: dict[str, Any] = {
    "ddpm": ddpm.DDPMKeys,
    "ddim": ddim.DDIMKeys,
    "pndm": pndm.PNDMKeys,
    "euler": euler.EulerKeys,
    "euler-ancestral": euler.EulerAncestralKeys,
    "heun": heun.HeunKeys,
    "flow-euler": flow.FlowEulerKeys,
    "flow-heun": flow.FlowHeunKeys,
}
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_defaults_are_those_of_the_class(family: str) -> None:
    signature = inspect.signature(FAMILIES[family].reference.__init__)
    theirs = {name: item.default for name, item in signature.parameters.items() if name != "self"}
    ours = {name: field.default for name, field in MODELS[family].model_fields.items()}
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_that_a_config_leaves_to_its_class_is_listed(family: str) -> None:
    config = json.loads(FAMILIES[family].reference().to_json_string())
    sampler = FAMILIES[family].sampler
    assert isinstance(sampler, ForeignScheduler)
    assert sampler.from_diffusers(config).defaults == ()
    empty = sampler.from_diffusers({"_class_name": "any", "_diffusers_version": "0.1"})
    stated = {key: value for key, value in config.items() if not key.startswith("_")}
    assert set(empty.defaults) == {f"{key}: {json.dumps(value)}" for key, value in stated.items()}
    assert empty.config == sampler.from_diffusers(config).config


def test_configs_in_the_wild_carry_keys_of_other_classes() -> None:
    stable_diffusion = {**SD, "clip_sample": False, "skip_prk_steps": True, "steps_offset": 1}
    reading = plugin.PNDM.from_diffusers(stable_diffusion)
    assert "clip_sample: not a key of PNDMScheduler, passed over as diffusers does" in reading.defaults
    reference = diffusers.PNDMScheduler.from_config(stable_diffusion)
    assert reference.config.skip_prk_steps


def test_all_problems_of_a_config_come_at_once() -> None:
    wrong = {
        "beta_shedule": "linear",
        "beta_schedule": "sigmoid",
        "num_train_timesteps": "many",
        "shift": 3.0,
    }
    with pytest.raises(SpecError) as caught:
        plugin.Euler.from_diffusers(wrong)
    text = str(caught.value)
    assert "unknown key 'beta_shedule'; did you mean 'beta_schedule'" in text
    assert "beta_schedule: 'sigmoid' is not supported; expected 'linear', 'scaled_linear' or" in text
    assert "num_train_timesteps: got 'many'" in text
    assert "EulerDiscreteScheduler" in text
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("sampler", "options", "named"),
    [
        (plugin.FlowEuler, {"invert_sigmas": True}, "invert_sigmas"),
        (plugin.Heun, {"beta_schedule": "exp"}, "beta_schedule"),
        (plugin.DDPM, {"beta_schedule": "laplace"}, "beta_schedule"),
        (plugin.PNDM, {"prediction_type": "sample"}, "prediction_type"),
        (plugin.EulerAncestral, {"prediction_type": "sample"}, "prediction_type"),
        (plugin.Euler, {"timestep_type": "continuous", "prediction_type": "v_prediction"}, "continuous"),
        (
            plugin.Euler,
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "use_karras_sigmas and use_beta_sigmas",
        ),
        (plugin.DDIM, {"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values"),
        (
            plugin.Euler,
            {"use_karras_sigmas": True, "sigma_min": 0.1, "timestep_spacing": "trailing"},
            "one of sigma_min and sigma_max",
        ),
        (plugin.FlowEuler, {"use_dynamic_shifting": True, "base_shift": None}, "base_shift"),
    ],
)
def test_what_is_not_built_is_refused_by_name(sampler: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        sampler.from_diffusers(options)


@pytest.mark.parametrize("remap", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_euler_over_continuous_times(remap: str, steps: int) -> None:
    # Stable Video Diffusion: the network is told log(sigma) / 4.
    options = {
        **SD,
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        f"use_{remap}_sigmas": True,
        "sigma_min": 0.002,
        "sigma_max": 700.0,
    }
    reading = plugin.Euler.from_diffusers(options)
    one = side_by_side.ours(side_by_side.built(plugin.Euler, reading, steps=steps), reading)
    with double(diffusers.EulerDiscreteScheduler):
        reference = diffusers.EulerDiscreteScheduler(**options)
        reference.set_timesteps(steps)
        distance, apart = one.worst(side_by_side.theirs(reference))
    assert distance < 1e-5
    assert apart < 1e-6


def _there_and_back(cell: Cell) -> str:
    """Write what a config made, read it again, and run diffusers on what was written."""
    family = FAMILIES[cell.name]
    reading = side_by_side.read(family.sampler, cell.options)
    try:
        scheduler: Any = side_by_side.built(family.sampler, reading, steps=cell.steps)
    except SpecError:
        return "not built"
    schedule = side_by_side.schedule_of(reading)
    try:
        written = scheduler.to_diffusers(schedule, reading.prediction, reading.time_scale)
    except SpecError:
        return "refused"
    assert json.loads(json.dumps(written)) == written
    assert written["_class_name"] == family.sampler.diffusers_class
    again = family.sampler.from_diffusers(written)
    assert again.defaults == ()
    assert side_by_side.built(family.sampler, again, steps=cell.steps).config == scheduler.config
    assert side_by_side.schedule_of(again).config == schedule.config
    assert (again.prediction, again.time_scale) == (reading.prediction, reading.time_scale)
    if cell.without_signal:
        return "equal"
    with double(family.reference):
        reference = family.reference.from_config(written)
        scheduler_grid.set_timesteps(reference, cell)
        learned = scheduler_grid.learned_of(cell)
        theirs = side_by_side.theirs(reference, learned=learned)
    distance, apart = side_by_side.ours(scheduler, reading, learned=learned).worst(theirs)
    assert distance <= scheduler_grid.TOLERANCE, (dict(cell.options), distance)
    assert apart <= scheduler_grid.TIME_TOLERANCE
    return "equal"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_reads_back_equal_and_diffusers_walks_it(family: str) -> None:
    cells = scheduler_grid.covering(family, [10])
    outcomes = [_there_and_back(cell) for cell in cells]
    assert outcomes.count("equal") >= 3
    refused = [cell for cell, outcome in zip(cells, outcomes, strict=True) if outcome == "refused"]
    # Only what diffusers would walk otherwise is refused.
    for cell in refused:
        assert FAMILIES[family].sampler.from_diffusers(cell.options).differences, dict(cell.options)


def _sampler(kind: Any, schedule: Any = None, **config: Any) -> tuple[Any, Any]:
    schedule = schedule or plugin.ScaledLinearSchedule(plugin.ScaledLinearSchedule.Config())
    return kind(kind.Config(**config), schedule), schedule


@pytest.mark.parametrize(
    ("kind", "config", "named"),
    [
        (plugin.DDIM, {"steps": 50, "eta": 0.5}, "eta: 0.5"),
        (plugin.DDIM, {"steps": 13}, "spacing: trailing with 13 of 1000"),
        (plugin.DDIM, {"steps": 50, "clip": 1.0}, "rederive_epsilon"),
        (plugin.DDIM, {"steps": 50, "shift": 2.0}, "shift: 2.0"),
        (plugin.DDIM, {"timesteps": (900.0, 10.0)}, "timesteps"),
        (plugin.DDPM, {"steps": 50, "final": "sigma_min"}, "final: sigma_min"),
        (plugin.DDPM, {"steps": 50, "variance": "fixed_large"}, "fixed_large"),
        (plugin.DDPM, {"steps": 61}, "trailing with 61 steps takes 62"),
        (plugin.PNDM, {"steps": 3, "spacing": "leading", "skip_prk_steps": False}, "skip_prk_steps"),
        (plugin.Euler, {"steps": 10}, "prior: marginal"),
        (plugin.Euler, {"steps": 10, "prior": "noise", "rho": 5.0, "sigma_spacing": "karras"}, "rho: 5.0"),
        (plugin.Euler, {"steps": 13, "prior": "noise", "spacing": "linspace"}, "interpolation"),
        (plugin.EulerAncestral, {"steps": 10, "prior": "noise", "eta": 0.5}, "eta: 0.5"),
        (plugin.Heun, {"steps": 10, "prior": "noise", "final": "sigma_min"}, "final"),
        (plugin.FlowEuler, {"steps": 10}, "rectified_flow"),
    ],
)
def test_what_diffusers_cannot_express_is_refused_by_name(
    kind: Any, config: dict[str, Any], named: str
) -> None:
    sampler, schedule = _sampler(kind, **config)
    with pytest.raises(SpecError, match=named):
        sampler.to_diffusers(schedule, Prediction.EPSILON, 1.0)


def test_a_denoiser_that_diffusers_has_no_words_for_is_refused() -> None:
    cosine = plugin.CosineSchedule(plugin.CosineSchedule.Config())
    sampler, _ = _sampler(plugin.DDIM, cosine, steps=10)
    with pytest.raises(SpecError) as caught:
        sampler.to_diffusers(cosine, Prediction.VELOCITY, 1000.0)
    problems = "\n".join(caught.value.problems)
    assert "the noise schedule is cosine" in problems
    assert "the denoiser's prediction is velocity" in problems
    assert "1000.0 * time" in problems


@pytest.mark.parametrize("shape", [(0.6, 0.6), (1.0, 1.0), (2.0, 0.7), (0.4, 3.0)])
def test_beta_spacing_has_the_quantiles_of_scipy(shape: tuple[float, float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    schedule = plugin.VESchedule(plugin.VESchedule.Config())
    sampler, _ = _sampler(plugin.Euler, schedule, steps=11, sigma_spacing="beta", beta_shape=shape)
    shares = [1 - index / 10 for index in range(11)]
    expected = [0.002 + (80 - 0.002) * stats.beta.ppf(share, *shape) for share in shares]
    assert sampler.levels().sigma[:-1].tolist() == pytest.approx(expected, rel=1e-9)


def test_between_steps_sigma_is_linear_where_the_schedule_says_so() -> None:
    kind = plugin.ScaledLinearSchedule
    for terminal, rescale in itertools.product([None, 2.0**-24], [False, True]):
        config = {"interpolation": "linear", "terminal_alpha_bar": terminal, "rescale_zero_snr": rescale}
        schedule = kind(kind.Config(**config))
        times = torch.tensor([0.25, 500.5, 997.75], dtype=torch.float64)
        level, low, high = (schedule.level(at) for at in (times, times.floor(), times.ceil()))
        share = times - times.floor()
        ratio = torch.lerp(low.sigma / low.alpha, high.sigma / high.alpha, share)
        torch.testing.assert_close(level.sigma / level.alpha, ratio, rtol=1e-12, atol=0)
        torch.testing.assert_close(schedule.time(level), times, rtol=1e-12, atol=0)


def test_a_terminal_trace_of_signal_may_lie_below_the_step_before_it() -> None:
    kind = plugin.LinearSchedule
    schedule = kind(kind.Config(rescale_zero_snr=True, terminal_alpha_bar=2.0**-24))
    times = torch.arange(1000, dtype=torch.float64)
    ratio = schedule.level(times).sigma / schedule.level(times).alpha
    assert ratio[-2] > ratio[-1]
    assert float(ratio[-1]) == pytest.approx(4096, rel=1e-6)
    assert torch.equal(schedule.time(schedule.level(times)), times)
