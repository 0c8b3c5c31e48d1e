from __future__ import annotations

from dataclasses import replace

import pytest
from diagnostics.emoji_subjects import emoji_subject

from ldm_registry.assembly import assemble
from ldm_registry.diagnostics.denoiser_explanations import explanation
from ldm_registry.diagnostics.injection import injected
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec

pytestmark = pytest.mark.plugins
MILD = 0.25
EXPLAINED = {
    "epsilon-for-v": "read as another prediction",
    "reversed-velocity": "opposite sign",
    "time-scale": "time is multiplied by 0.178",
    "linear-for-scaled-linear": "noise schedule squaredcos_cap_v2",
    "swapped-sin-cos": "time embedding follows another convention",
    "unscaled-input": "input is not scaled",
}


def injured(fault: str, strength: float) -> Subject:
    spec = injected(load_spec("emoji-kl-dit"), fault, Registry.discover(), strength=strength)
    return replace(emoji_subject("emoji-kl-dit"), pipe=assemble(spec))


@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=() if name == "epsilon-for-v" else pytest.mark.slow) for name in EXPLAINED],
)
@pytest.mark.parametrize("strength", [pytest.param(MILD), pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_misuse_is_undone_however_mild_it_is(fault: str, strength: float) -> None:
    found = explanation(injured(fault, strength))
    assert found is not None
    assert EXPLAINED[fault].replace("0.178", "0.001" if strength == 1.0 else "0.178") in found.fault
    assert found.after < 0.1 * found.before


def test_a_denoiser_that_is_what_was_saved_needs_no_explanation() -> None:
    assert explanation(emoji_subject("emoji-kl-dit")) is None


@pytest.mark.slow
def test_lost_weights_are_no_misuse() -> None:
    assert explanation(injured("random-weights", 0.5)) is None


@pytest.mark.slow
def test_times_that_lost_their_digits_are_called_rounded() -> None:
    spec = injected(load_spec("emoji-pixel-unet"), "bfloat16-time", Registry.discover(), strength=1.0)
    found = explanation(replace(emoji_subject("emoji-pixel-unet"), pipe=assemble(spec)))
    assert found is not None
    assert found.fault == "time is rounded to few digits"
