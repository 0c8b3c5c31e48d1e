from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from diagnostics.injured_denoisers import (
    injured,
    of_schedule,
    read_as,
    sines_swapped,
    time_scaled,
    unscaled,
)

from ldm_registry.diagnostics.hypotheses import measure_hypotheses, scan
from ldm_registry.diagnostics.telling import is_sinusoids, keepers
from ldm_registry.diagnostics.time_conventions import conventions, sinusoids
from ldm_registry.interfaces import Denoiser
from ldm_registry.spec import bundled_specs
from ldm_registry.vocabulary import Kind, Prediction, Scaling

pytestmark = pytest.mark.plugins

TRAINED = ["emoji-kl-dit", "emoji-kl-unet", "emoji-vq-dit", "emoji-pixel-dit"]


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """The first network by default, the others where there is time."""
    return [] if name == "emoji-kl-dit" else [pytest.mark.slow]


def default_or_slow(name: str) -> Any:
    return pytest.param(name, marks=marks_of(name))


@pytest.mark.parametrize("name", [default_or_slow(name) for name in TRAINED])
def test_the_convention_of_a_trained_network_is_found_among_at_least_sixty(name: str) -> None:
    subject = emoji_subject(name)
    found = scan(subject)
    assert len(found.errors) >= 60
    assert found.best.prediction is subject.pipe.denoiser.prediction
    assert found.margin[0] < 0.02
    assert measure_hypotheses(subject).is_healthy


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_specs())
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_bundled_denoiser_is_suspected_of_being_misread(name: str, seed: int) -> None:
    assert measure_hypotheses(emoji_subject(name, quick=False, seed=seed)).suspicions == ()


MISREADINGS: list[tuple[str, Callable[[Denoiser], Denoiser], str]] = [
    ("emoji-kl-unet", read_as(Prediction.V), "epsilon read as v"),
    ("emoji-kl-dit", read_as(Prediction.EPSILON), "v read as epsilon"),
    ("emoji-kl-dit", read_as(Prediction.F), "v has the opposite sign"),
    ("emoji-vq-dit", read_as(Prediction.REVERSE_VELOCITY), "velocity points the other way"),
    ("emoji-pixel-dit", read_as(Prediction.EPSILON), "x0 read as epsilon"),
    ("emoji-kl-unet", time_scaled(1e-3), "time is given in [0, 1] to an embedding built for [0, 1000]"),
    ("emoji-vq-dit", time_scaled(1e-3), "time is given in [0, 1] to an embedding built for [0, 1000]"),
    ("emoji-kl-dit", time_scaled(1e3), "time is given in [0, 1000] to an embedding built for [0, 1]"),
    ("emoji-kl-unet", of_schedule("linear"), "scaled_linear"),
    ("emoji-kl-dit", sines_swapped, "sines and cosines of the time embedding are swapped"),
    ("emoji-kl-unet", sines_swapped, "sines and cosines of the time embedding are swapped"),
    ("emoji-kl-unet", unscaled(Scaling.VE, 1), "input is not scaled"),
    ("emoji-vq-dit", unscaled(Scaling.FLOW, 1), "input is not scaled"),
]


@pytest.mark.parametrize(
    ("name", "injure", "fault"),
    [pytest.param(*row, id=f"{row[0]}-{row[2][:24]}", marks=marks_of(row[0])) for row in MISREADINGS],
)
def test_a_misuse_is_named_and_blamed_on_the_denoiser(
    name: str, injure: Callable[[Denoiser], Denoiser], fault: str
) -> None:
    found = measure_hypotheses(injured(emoji_subject(name), injure))
    # What golden outputs explain comes first, in its own words; the scan over images needs none of them.
    assert fault in found.suspicions[-1].fault, found
    assert found.suspicions[0].stages == frozenset({Kind.DENOISER})


def test_the_denoiser_is_left_as_it_was() -> None:
    subject = emoji_subject("emoji-kl-dit")
    before = keepers(subject.pipe.denoiser)
    state = torch.get_rng_state()
    weights = [tensor.clone() for tensor in subject.pipe.denoiser.parameters()]
    scan(subject)
    assert [trained for _, trained in keepers(subject.pipe.denoiser)] == [trained for _, trained in before]
    assert not any(module._forward_pre_hooks for module in subject.pipe.denoiser.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, subject.pipe.denoiser.parameters(), strict=True))


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_the_step_of_a_discrete_schedule_is_that_of_the_registered_one(name: str) -> None:
    from ldm_registry.build import build_schedule
    from ldm_registry.registry import Registry

    config = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    schedule = build_schedule(name, config, Registry.discover())
    steps = torch.arange(1000, dtype=torch.float64)
    log_snr = schedule.level(steps).log_snr
    assert float((conventions()[name](log_snr) - steps).abs().max()) < 1e-3


def test_sinusoids_are_seen_in_either_order_and_other_features_are_not() -> None:
    times = torch.tensor([0.0, 3.0, 977.0])
    for order in (True, False):
        assert is_sinusoids(sinusoids(times, 32, 1.0, cosine_first=order))
    assert not is_sinusoids(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))
    assert not is_sinusoids(torch.zeros(3, 31))
