"""Which levels a config asks for, and which configs are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import ldm_schedulers as plugin
import pytest
import torch
from ldm_schedulers.spacing import levels
from ldm_schedulers.spacing_config import SpacingConfig
from pydantic import ValidationError

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseSchedule

SCALED_LINEAR = plugin.ScaledLinearSchedule(
    plugin.ScaledLinearSchedule.Config(beta_start=0.00085, beta_end=0.012)
)
FLOW = plugin.RectifiedFlowSchedule(plugin.RectifiedFlowSchedule.Config())
VE = plugin.VESchedule(plugin.VESchedule.Config())
VP = plugin.VPSchedule(plugin.VPSchedule.Config())


def times(schedule: NoiseSchedule = SCALED_LINEAR, tokens: int | None = None, **config: Any) -> list[float]:
    """Times that the denoiser is asked at, without the final level."""
    found = levels(SpacingConfig.model_validate(config), schedule, tokens)
    return [float(schedule.time(found[index])) for index in range(len(found) - 1)]


def sigmas(schedule: NoiseSchedule = SCALED_LINEAR, **config: Any) -> torch.Tensor:
    found = levels(SpacingConfig.model_validate(config), schedule)
    return found.sigma / found.alpha


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"spacing": "leading", "steps": 4}, [750, 500, 250, 0]),
        ({"spacing": "leading", "steps": 4, "steps_offset": 1}, [751, 501, 251, 1]),
        ({"spacing": "leading", "steps": 3}, [666, 333, 0]),
        ({"spacing": "trailing", "steps": 4}, [999, 749, 499, 249]),
        ({"spacing": "trailing", "steps": 3}, [999, 666, 332]),
        ({"spacing": "linspace", "steps": 4}, [999, 666, 333, 0]),
        ({"spacing": "linspace", "steps": 3, "round_times": True}, [999, 500, 0]),
        ({"spacing": "linspace", "steps": 1}, [999]),
        ({"spacing": "trailing", "steps": 1}, [999]),
        ({"timesteps": (900, 400, 33)}, [900, 400, 33]),
    ],
)
def test_whole_times_are_those_of_the_published_spacings(config: dict[str, Any], expected: list[int]) -> None:
    assert times(**config) == expected


def test_linspace_times_lie_between_steps_unless_rounded() -> None:
    assert times(spacing="linspace", steps=5) == pytest.approx([999, 749.25, 499.5, 249.75, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"spacing": "trailing", "steps": 4}, [1, 0.75, 0.5, 0.25]),
        ({"spacing": "linspace", "steps": 4}, [1, 0.667, 0.334, 0.001]),
        ({"spacing": "leading", "steps": 3}, [0.667, 0.334, 0.001]),
    ],
)
def test_times_of_a_flow_never_begin_a_step_without_noise(
    config: dict[str, Any], expected: list[float]
) -> None:
    assert times(FLOW, **config) == pytest.approx(expected)


def test_continuous_times_span_the_range_of_the_schedule() -> None:
    assert times(VP, spacing="linspace", steps=3) == pytest.approx([1, 0.5005, 0.001])
    assert times(VP, spacing="trailing", steps=3) == pytest.approx([1, 0.667, 0.334])
    assert times(VP, spacing="leading", steps=3) == pytest.approx([0.667, 0.334, 0.001])


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_bounds_hold_for_every_spacing_of_a_continuous_schedule(spacing: str) -> None:
    found = sigmas(VE, spacing=spacing, steps=200, sigma_min=0.5, sigma_max=5.0)[:-1]
    assert float(found[0]) == pytest.approx(5.0, rel=0.02)
    assert float(found[-1]) == pytest.approx(0.5, rel=0.02)
    assert found.min() >= 0.5 - 1e-9
    assert found.max() <= 5.0 + 1e-9


def test_karras_levels_are_equation_five_of_the_paper() -> None:
    found = sigmas(VE, sigma_spacing="karras", steps=9, rho=7.0)
    ramp = [(80 ** (1 / 7) + index / 8 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for index in range(9)]
    torch.testing.assert_close(found, torch.tensor([*ramp, 0.0], dtype=torch.float64), rtol=1e-11, atol=0)


def test_exponential_levels_are_geometric() -> None:
    found = sigmas(VE, sigma_spacing="exponential", steps=5, sigma_min=0.1, sigma_max=10.0)
    expected = [10.0, math.sqrt(10.0), 1.0, math.sqrt(0.1), 0.1, 0.0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_listed_sigmas_and_log_snrs_are_taken_as_they_are() -> None:
    assert sigmas(VE, sigmas=(5.0, 1.0, 0.5)).tolist() == pytest.approx([5.0, 1.0, 0.5, 0.0])
    assert sigmas(VE, sigmas=(5.0, 1.0, 0.0)).tolist() == pytest.approx([5.0, 1.0, 0.0])
    assert sigmas(VE, log_snrs=(-2.0, 0.0, 2.0), final="last").tolist() == pytest.approx(
        [math.e, 1, 1 / math.e]
    )


def test_the_final_level_is_clean_or_the_cleanest_of_the_schedule() -> None:
    assert sigmas(steps=5)[-1] == 0
    cleanest = float(SCALED_LINEAR.level(torch.tensor(0)).log_snr)
    assert float(
        levels(SpacingConfig(steps=5, final="sigma_min"), SCALED_LINEAR).log_snr[-1]
    ) == pytest.approx(cleanest)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 13, 50, 77, 334, 501, 999, 1000])
def test_levels_get_strictly_cleaner_down_to_none(spacing: str, steps: int) -> None:
    found = levels(SpacingConfig.model_validate({"spacing": spacing, "steps": steps}), SCALED_LINEAR)
    assert len(found) == steps + 1
    assert (found.log_snr.diff() > 0).all()
    assert float(found.alpha[-1]) == 1.0


def test_a_shift_multiplies_sigma_over_alpha() -> None:
    plain, shifted = sigmas(FLOW, steps=8)[1:], sigmas(FLOW, steps=8, shift=3.0)[1:]
    torch.testing.assert_close(shifted, 3.0 * plain)


@pytest.mark.parametrize(("kind", "factor"), [("exponential", math.exp(0.8)), ("linear", 0.8)])
def test_a_dynamic_shift_follows_the_number_of_tokens(kind: str, factor: float) -> None:
    config = {"dynamic_shift": kind, "base_shift": 0.5, "max_shift": 1.1}
    config |= {"base_image_seq_len": 100, "max_image_seq_len": 500}
    expected = [factor * t / (1 + (factor - 1) * t) for t in (1.0, 0.75, 0.5, 0.25)]
    assert times(FLOW, 300, steps=4, **config) == pytest.approx(expected)


def test_a_terminal_shift_moves_the_last_level_and_keeps_the_first() -> None:
    found = times(FLOW, steps=5, shift=2.0, shift_terminal=0.1)
    assert (found[0], found[-1]) == pytest.approx((1.0, 0.1))


def test_the_default_is_fifty_steps_or_all_that_there_are() -> None:
    few = plugin.LinearSchedule(plugin.LinearSchedule.Config(steps=10))
    assert len(plugin.DDIM(plugin.DDIM.Config(), SCALED_LINEAR).levels()) == 51
    assert len(plugin.DDIM(plugin.DDIM.Config(), few).levels()) == 11
    assert len(plugin.DDPM(plugin.DDPM.Config(), SCALED_LINEAR).levels()) == 1001
    assert len(plugin.DDPM(plugin.DDPM.Config(), few).levels()) == 11


@pytest.mark.parametrize(
    ("schedule", "config", "told"),
    [
        (SCALED_LINEAR, {"steps": 1001}, "at most the schedule's 1000"),
        (SCALED_LINEAR, {"timesteps": (5, 1), "sigmas": (5.0, 1.0)}, "keep one of them"),
        (SCALED_LINEAR, {"timesteps": (5, 1), "steps": 3}, "makes 2 steps, and steps says 3"),
        (SCALED_LINEAR, {"timesteps": (1, 5)}, "strictly cleaner"),
        (SCALED_LINEAR, {"timesteps": (1200, 5)}, "the range is [0, 999]"),
        (SCALED_LINEAR, {"sigmas": (0.0,)}, "at least one level before it"),
        (SCALED_LINEAR, {"sigmas": (1.0, -1.0)}, "expected 0 or more"),
        (SCALED_LINEAR, {"sigmas": (0.01,), "final": "sigma_min"}, "noisier than the one before"),
        (SCALED_LINEAR, {"final": "last"}, "needs timesteps, sigmas or log_snrs"),
        (SCALED_LINEAR, {"sigma_spacing": "karras", "shift": 2.0}, "remove the shift"),
        (SCALED_LINEAR, {"sigma_spacing": "karras", "sigma_min": 20.0}, "below sigma_max"),
        (SCALED_LINEAR, {"sigma_spacing": "karras", "timesteps": (5, 1)}, "sigma_spacing: none"),
        (SCALED_LINEAR, {"spacing": "leading", "steps_offset": 30, "steps": 50}, "lower steps_offset"),
        (SCALED_LINEAR, {"steps_offset": 1}, "fits spacing: leading"),
        (SCALED_LINEAR, {"sigma_max": 5.0}, "use linspace"),
        (FLOW, {"sigma_spacing": "karras"}, "set sigma_max"),
        (FLOW, {"sigma_spacing": "exponential", "sigma_max": 80.0}, "set sigma_min"),
        (FLOW, {"dynamic_shift": "linear"}, "needs the number of tokens"),
        (FLOW, {"dynamic_shift": "linear", "shift": 2.0}, "exclude each other"),
        (FLOW, {"spacing": "leading", "steps_offset": 1}, "discrete schedule only"),
    ],
)
def test_contradictions_are_refused_with_what_would_fit(
    schedule: NoiseSchedule, config: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        levels(SpacingConfig.model_validate(config), schedule)


def test_every_contradiction_is_told_at_once() -> None:
    config = SpacingConfig(sigma_spacing="karras", shift=2.0, dynamic_shift="linear", final="last")
    with pytest.raises(SpecError) as caught:
        levels(config, SCALED_LINEAR)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    "config", [{"steps": 0}, {"spacing": "even"}, {"rho": 0}, {"sigmas": ()}, {"step": 5}]
)
def test_values_out_of_range_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SpacingConfig.model_validate(config)
