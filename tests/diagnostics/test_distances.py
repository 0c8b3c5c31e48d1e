from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm_registry.diagnostics.distances import (
    frechet_distance,
    gaussian_frechet_distance,
    kernel_distance,
)
from ldm_registry.diagnostics.features import convolution_features, patch_features


def normal(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size: int, seed: int) -> Tensor:
    factor = normal(size, size, seed)
    return factor @ factor.T / size


def test_gaussians_that_share_their_axes_have_the_distance_of_their_means_and_deviations() -> None:
    axes = torch.linalg.qr(normal(5, 5, 0)).Q
    std_a, std_b = (
        torch.tensor([1.0, 2.0, 0.0, 3.0, 0.5]).double(),
        torch.tensor([2.0, 2.0, 1.0, 0.0, 4.0]).double(),
    )
    mean_a, mean_b = normal(1, 5, 1)[0], normal(1, 5, 2)[0]
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    found = gaussian_frechet_distance(
        mean_a, axes @ torch.diag(std_a**2) @ axes.T, mean_b, axes @ torch.diag(std_b**2) @ axes.T
    )
    # Where a variance is 0, the root of its rounding error is left: sqrt(1e-16).
    assert found == pytest.approx(float(expected), rel=1e-7)


def test_the_distance_of_gaussians_is_that_of_the_optimal_map_between_them() -> None:
    cov_a, mapping = covariance(6, 3), covariance(6, 4)
    # x -> T x with T symmetric and positive is optimal (Brenier 1991): E|x - T x|^2 = tr((I - T) A (I - T)).
    rest = torch.eye(6, dtype=torch.float64) - mapping
    zero = torch.zeros(6)
    found = gaussian_frechet_distance(zero, cov_a, zero, mapping @ cov_a @ mapping)
    assert found == pytest.approx(float((rest @ cov_a @ rest).trace()), rel=1e-7)


def test_equal_sets_are_at_no_frechet_distance() -> None:
    some = normal(40, 8, 5)
    assert frechet_distance(some, some.flip(0)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_distances_are_symmetric(distance) -> None:
    a, b = normal(30, 8, 6), 1.5 * normal(20, 8, 7) + 0.3
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)


def test_a_set_of_fewer_images_than_features_has_a_finite_frechet_distance() -> None:
    assert 0 < frechet_distance(normal(4, 64, 8), normal(5, 64, 9)) < 1e4


def test_the_kernel_distance_of_samples_of_one_distribution_is_zero_on_average() -> None:
    found = torch.tensor([kernel_distance(normal(6, 4, 2 * n), normal(9, 4, 2 * n + 1)) for n in range(800)])
    error = float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean())) < 3.5 * error
    assert float(found.min()) < 0 < float(found.max())


def test_the_kernel_distance_of_two_pairs_is_that_of_its_definition() -> None:
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    # k(x, y) = (xy + 1)^3: 27 within a, 1 within b, and 1, 64, 1, 343 between them.
    assert kernel_distance(a, b) == pytest.approx(27 + 1 - 2 * (1 + 64 + 1 + 343) / 4)


@pytest.mark.parametrize("extract", [convolution_features, patch_features])
def test_features_rank_a_stronger_injury_as_farther(extract) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 32, 32, generator=generator) * 2 - 1
    images = torch.nn.functional.avg_pool2d(images, 5, 1, 2)
    noise = torch.randn(images.shape, generator=generator)
    near, far = (frechet_distance(extract(images), extract(images + std * noise)) for std in (0.05, 0.3))
    assert 0 < near < far / 2


@pytest.mark.parametrize("extract", [convolution_features, patch_features])
def test_features_depend_on_their_seed_alone(extract) -> None:
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    first = extract(images, seed=4)
    torch.manual_seed(2)
    assert torch.equal(first, extract(images, seed=4))
    assert not torch.equal(first, extract(images, seed=5))
    assert first.dtype is torch.float64
