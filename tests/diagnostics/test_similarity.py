from __future__ import annotations

import sys

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from torch import Tensor

from ldm_registry.diagnostics.round_trip import measure_round_trip
from ldm_registry.diagnostics.signatures import psnr_db
from ldm_registry.diagnostics.similarity import MISSING, ssim


def pictures(side: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(3, 3, side, side, generator=generator) * 2 - 1
    return true + 0.3 * torch.randn(true.shape, generator=generator), true


@pytest.mark.slow
def test_equal_images_are_fully_similar() -> None:
    _, true = pictures()
    assert ssim(true, true) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_similarity_is_that_of_a_constant_image_in_closed_form() -> None:
    # Without variance and covariance Eq. 13 leaves (2ab + C1) / (a^2 + b^2 + C1) with C1 = (0.01 * 2)^2.
    a, b = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.25)
    assert ssim(a, b) == pytest.approx((2 * 0.125 + 4e-4) / (0.25 + 0.0625 + 4e-4), rel=1e-4)


@pytest.mark.slow
def test_the_decibels_of_the_round_trip_are_those_of_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    made, true = pictures()
    each = [
        peak_signal_noise_ratio(a.clamp(-1, 1), b, data_range=2.0) for a, b in zip(made, true, strict=True)
    ]
    assert psnr_db(made, true).tolist() == pytest.approx([float(one) for one in each], abs=1e-4)


@pytest.mark.slow
def test_images_smaller_than_the_window_have_no_similarity() -> None:
    made, true = pictures(10)
    assert ssim(made, true) is None


@pytest.mark.plugins
def test_a_round_trip_without_torchmetrics_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    found = measure_round_trip(emoji_subject("emoji-pixel-dit", 8, quick=False))
    assert found.notes == (MISSING,)
    assert "ssim" not in {metric.name for metric in found.metrics}
    assert found.is_healthy


@pytest.mark.plugins
@pytest.mark.slow
def test_a_thorough_round_trip_has_a_similarity_that_suspects_nobody() -> None:
    (found,) = [
        metric
        for metric in measure_round_trip(emoji_subject("emoji-pixel-dit", 8, quick=False)).metrics
        if metric.name == "ssim"
    ]
    assert found.value == pytest.approx(1.0, abs=1e-6)
    assert found.healthy is None


@pytest.mark.plugins
def test_a_quick_round_trip_does_not_ask_for_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    found = measure_round_trip(emoji_subject("emoji-pixel-dit", 8, quick=True))
    assert found.notes == ()
