"""The figures of a checkpoint, against closed forms."""

from __future__ import annotations

import math

import pytest
import tiny_parts
import torch
from conftest import blobs

from ldm_registry.data import to_unit
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.training import gaussian, self_test
from ldm_registry.vocabulary import Scaling

CPU = torch.device("cpu")


def level_at(log_snr: float) -> NoiseLevel:
    return NoiseLevel.at(torch.tensor(log_snr, dtype=torch.float64), Scaling.VP)


def correlated(count: int, dimensions: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    mix = torch.randn(dimensions, dimensions, generator=draws, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=draws, dtype=torch.float64) @ mix / dimensions**0.5 + 1.0


def test_psnr_is_the_mean_of_the_images_decibels() -> None:
    true = torch.zeros(2, 3, 4, 4)
    made = torch.cat([torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.02)])
    assert self_test.mean_psnr_db(made, true) == pytest.approx((20.0 + 40.0) / 2, abs=1e-4)


def test_latent_statistics_are_those_of_each_channel() -> None:
    latents = torch.randn(50, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 2.0 + 5.0
    found = self_test.latent_statistics(latents)
    assert found.mean[1] == pytest.approx(latents[:, 1].mean().item(), abs=1e-5)
    assert found.std[0] == pytest.approx(latents[:, 0].std(correction=0).item(), abs=1e-5)
    assert found.images == 50


def test_the_gaussian_denoiser_is_the_wiener_filter() -> None:
    samples, level = correlated(200, 6), level_at(0.7)
    mean, covariance = samples.mean(0), torch.cov(samples.T, correction=0)
    alpha, sigma = float(level.alpha), float(level.sigma)
    z = correlated(5, 6)
    gain = (
        alpha
        * covariance
        @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(6, dtype=torch.float64))
    )
    expected = mean + (z - alpha * mean) @ gain.T
    torch.testing.assert_close(
        gaussian.GaussianFit.of(samples).denoise(z, level), expected, rtol=1e-9, atol=1e-9
    )


def test_fewer_samples_than_dimensions_give_the_same_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, z, level = correlated(10, 30), correlated(4, 30), level_at(0.0)
    dense = gaussian.GaussianFit.of(samples).denoise(z, level)
    monkeypatch.setattr(gaussian, "LARGEST_DENSE", 8)
    low_rank = gaussian.GaussianFit.of(samples)
    assert low_rank.axes.shape == (30, 9)
    torch.testing.assert_close(low_rank.denoise(z, level), dense, rtol=1e-4, atol=1e-4)


def test_the_gaussian_error_of_gaussian_data_is_the_known_one() -> None:
    """White data of variance v: the error of the Wiener filter is `v sigma^2 / (alpha^2 v + sigma^2)`."""
    latents = torch.randn(4000, 2, 2, 2, generator=torch.Generator().manual_seed(0)) * math.sqrt(0.5)
    denoiser = tiny_parts.MeanDenoiser(tiny_parts.MeanConfig(size=2))
    errors = self_test.denoising_errors(denoiser, latents, {}, gaussian.GaussianFit.of(latents), CPU)
    assert [one.log_snr for one in errors] == [-4, -3, -2, -1, 0, 1, 2, 3, 4]
    for one in errors:
        snr = math.exp(one.log_snr)
        assert one.gaussian_x0_mse == pytest.approx(0.5 / (1.0 + 0.5 * snr), rel=0.03)
        assert one.x0_mse == pytest.approx(0.5, rel=0.03)


def test_an_encoded_set_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_parts.TinyEncoder(tiny_parts.TinyConfig()).eval()
    images = blobs(10, 0)
    whole = self_test.encoded(encoder, images, CPU)
    monkeypatch.setattr(self_test, "BATCH", 3)
    torch.testing.assert_close(self_test.encoded(encoder, images, CPU), whole)


def test_a_round_trip_stays_within_the_pixel_range() -> None:
    parts = tiny_parts.TinyEncoder(tiny_parts.TinyConfig()), tiny_parts.TinyDecoder(tiny_parts.TinyConfig())
    with torch.no_grad():
        parts[1].decoder.bias.fill_(5.0)
    made = self_test.round_trip(*parts, to_unit(blobs(3, 0)), CPU)
    assert made.shape == (3, 3, 16, 16)
    assert made.max() == 1.0


def test_golden_values_survive_noise_below_their_last_decimal() -> None:
    outputs = torch.tensor([0.1231, -0.5559, -0.00001])
    digest, values = self_test.golden(outputs)
    assert values == (0.123, -0.556, 0.0)
    assert self_test.golden(outputs + 1e-5)[0] == digest
    assert self_test.golden(outputs + 1e-2)[0] != digest
