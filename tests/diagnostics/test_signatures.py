from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm_registry.diagnostics.latent_link import PLACE, TURNS, Link
from ldm_registry.diagnostics.signatures import (
    border_excess,
    channel_fit,
    mixing_fit,
    pattern_excess,
    psnr_db,
    seam_period,
    sharpness,
    shift,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_images(count: int = 6, side: int = 64, seed: int = 0) -> Tensor:
    """Random images that are band-limited, so that a fraction of a pixel is well defined."""
    spectrum = torch.fft.fft2(noise(count, 3, side, side, seed=seed))
    k = torch.fft.fftfreq(side, dtype=torch.float64)
    kept = (k.abs()[:, None] < 0.2) & (k.abs()[None] < 0.2)
    return torch.fft.ifft2(spectrum * kept).real


def moved(images: Tensor, down: float, right: float) -> Tensor:
    k = torch.fft.fftfreq(images.shape[-1], dtype=torch.float64)
    phase = torch.exp(-2j * math.pi * (k[:, None] * down + k[None] * right))
    return torch.fft.ifft2(torch.fft.fft2(images) * phase).real


def test_psnr_of_a_known_error_is_the_closed_form() -> None:
    true = torch.zeros(2, 3, 8, 8)
    assert psnr_db(true + 0.1, true).tolist() == pytest.approx([20 * math.log10(2 / 0.1)] * 2, rel=1e-6)


def test_the_channel_fit_recovers_a_known_affine_map() -> None:
    given = noise(4, 3, 16, 16)
    gain, offset = torch.tensor([0.5, 2.0, -1.0]).double(), torch.tensor([0.5, -1.0, 0.25]).double()
    fit = channel_fit(given, gain[:, None, None] * given + offset[:, None, None])
    torch.testing.assert_close(fit.matrix, gain.diag(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fit.offset, offset, rtol=1e-10, atol=1e-10)
    assert fit.unexplained < 1e-20


def test_the_colour_fit_recovers_a_known_matrix() -> None:
    given, matrix, offset = noise(4, 3, 16, 16), noise(3, 3, seed=1), noise(3, seed=2)
    made = torch.einsum("ij,bjhw->bihw", matrix, given) + offset[:, None, None]
    fit = mixing_fit(given, made)
    torch.testing.assert_close(fit.matrix, matrix, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(fit.offset, offset, rtol=1e-7, atol=1e-7)


def test_the_unexplained_share_is_that_of_the_added_noise() -> None:
    given = noise(16, 3, 32, 32)
    fit = mixing_fit(given, given + 0.5 * noise(16, 3, 32, 32, seed=1))
    assert fit.unexplained == pytest.approx(0.25 / 1.25, rel=0.05)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_a_permutation_of_channels_is_read_off(order: tuple[int, ...]) -> None:
    given = noise(4, 3, 16, 16)
    assert mixing_fit(given, given[:, list(order)]).permutation() == order
    assert mixing_fit(given, given).permutation() is None


@pytest.mark.parametrize("by", [(0.0, 0.0), (0.25, -0.4), (1.0, 2.0), (-3.5, 0.5), (8.0, -8.0)])
def test_a_shift_is_found_to_a_twentieth_of_a_pixel(by: tuple[float, float]) -> None:
    images = smooth_images()
    assert shift(images, moved(images, *by)) == pytest.approx(by, abs=0.05)


@pytest.mark.parametrize("period", [8, 16, 32])
def test_seams_are_found_at_their_period(period: int) -> None:
    tiles = torch.arange(64) // period
    tone = ((tiles[:, None] + tiles) % 2).double() * 0.2
    error = 0.05 * noise(8, 3, 64, 64) + tone
    assert seam_period(error, [4, 8, 16, 32], 2.5)[0] == period


def test_noise_and_a_smooth_error_have_no_seams() -> None:
    for error in (noise(8, 3, 64, 64), smooth_images(8)):
        assert seam_period(error, [4, 8, 16, 32], 2.5)[0] is None


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_mesh_stands_out_at_its_period_and_nowhere_wider(period: int) -> None:
    error = 0.1 * noise(8, 3, 64, 64)
    error[..., ::period, :] += 0.2
    assert pattern_excess(error, period) > 3.0
    assert pattern_excess(error, 2 * period) < 3.0


def test_a_pattern_of_fewer_than_two_periods_is_not_measured() -> None:
    assert math.isnan(pattern_excess(noise(1, 1, 8, 8), 8))


def test_border_excess_is_the_ratio_of_the_errors() -> None:
    images, error = noise(16, 3, 64, 64), noise(16, 3, 64, 64, seed=1)
    assert border_excess(error, images, 4) == pytest.approx(1.0, rel=0.1)
    spoilt = error.clone()
    spoilt[..., :4, :] *= 5.0
    spoilt[..., -4:, :] *= 5.0
    spoilt[..., :4] = 5.0 * error[..., :4]
    spoilt[..., -4:] = 5.0 * error[..., -4:]
    assert border_excess(spoilt, images, 4) == pytest.approx(5.0, rel=0.1)


def test_sharpness_is_the_power_of_fine_detail_that_is_left() -> None:
    images = noise(4, 3, 32, 32)
    assert sharpness(images, 0.5 * images) == pytest.approx(0.25)
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert sharpness(images, blurred) < 0.15


@pytest.mark.parametrize("turn", TURNS)
def test_a_link_finds_the_turn_and_the_map_between_latents(turn: str) -> None:
    wanted, offset = noise(6, 4, 8, 8).float(), torch.tensor([0.5, 0.0, -0.5, 0.2])
    # What the encoder did is undone by the turn of the same name, so the encoder's side is its inverse.
    inverse = {
        "moved right by one cell": "moved left by one cell",
        "moved left by one cell": "moved right by one cell",
        "moved down by one cell": "moved up by one cell",
        "moved up by one cell": "moved down by one cell",
    }.get(turn, turn)
    encoded = TURNS[inverse]((wanted - offset[:, None, None]) / 2.0)
    link = Link.between(encoded, wanted)
    assert link.turn == turn
    assert link.fit.gain == pytest.approx(2.0, rel=1e-4)
    torch.testing.assert_close(link.fit.offset.float(), offset, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(link.mapped(encoded), wanted, rtol=1e-3, atol=1e-4)
    assert any("scaled by 0.50" in words for words in link.words())


def test_equal_latents_need_no_words() -> None:
    latents = noise(6, 4, 8, 8).float()
    link = Link.between(latents, latents)
    assert (link.turn, list(link.words())) == (PLACE, [])
