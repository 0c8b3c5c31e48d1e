from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ldm_oracles import GaussianConfig, GaussianDenoiser
from torch import Tensor
from torch.testing import assert_close

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Prediction, Scaling

Draw = Callable[..., Tensor]
SHAPE = (2, 2, 3)
LOG_SNR = torch.tensor([-9.0, -1.5, 0.0, 2.0, 12.0], dtype=torch.float64)


def levels() -> NoiseLevel:
    return NoiseLevel.at(LOG_SNR, Scaling.VP)


def correlated(normal: Draw, count: int = 60) -> Tensor:
    mix = normal(12, 12)
    return (normal(count, 12) @ mix + normal(12)).view(count, *SHAPE)


def fitted(latents: Tensor, **config: object) -> GaussianDenoiser:
    denoiser = GaussianDenoiser(GaussianConfig.model_validate(config))
    denoiser.fit(latents, {})
    return denoiser


def wiener(z: Tensor, level: NoiseLevel, mean: Tensor, covariance: Tensor) -> Tensor:
    """The textbook formula, one sample at a time, with a solve in place of an eigendecomposition."""
    rows = []
    for row, alpha, sigma in zip(z.flatten(1), level.alpha, level.sigma, strict=True):
        total = alpha**2 * covariance + sigma**2 * torch.eye(len(row), dtype=row.dtype)
        rows.append(mean + alpha * covariance @ torch.linalg.solve(total, row - alpha * mean))
    return torch.stack(rows).view_as(z)


def test_full_covariance_is_the_wiener_filter_at_each_samples_own_level(normal: Draw) -> None:
    latents = correlated(normal)
    flat = latents.flatten(1)
    z = normal(5, *SHAPE)
    expected = wiener(z, levels(), flat.mean(0), torch.cov(flat.T, correction=0))
    assert_close(
        fitted(latents, covariance="full")(z, levels(), {}).prediction, expected, rtol=1e-9, atol=1e-10
    )


def test_diagonal_covariance_is_the_wiener_filter_of_each_value(normal: Draw) -> None:
    latents = correlated(normal)
    flat = latents.flatten(1)
    z = normal(5, *SHAPE)
    expected = wiener(z, levels(), flat.mean(0), torch.diag(flat.var(0, correction=0)))
    assert_close(fitted(latents, covariance="diagonal")(z, levels(), {}).prediction, expected)


def test_isotropic_fit_is_two_numbers_in_the_config_and_no_weights(normal: Draw) -> None:
    latents = correlated(normal)
    denoiser = fitted(latents)
    assert denoiser.config.mean == pytest.approx(float(latents.mean()))
    assert denoiser.config.std == pytest.approx(float(latents.std(correction=0)))
    assert not denoiser.state_dict()
    z = normal(1, 2, 7, 5)
    assert denoiser(z, NoiseLevel.of(0.6, 0.8), {}).prediction.shape == z.shape


def test_low_rank_keeps_the_largest_axes_and_the_trace_of_the_covariance(normal: Draw) -> None:
    latents = correlated(normal)
    values, vectors = torch.linalg.eigh(torch.cov(latents.flatten(1).T, correction=0))
    values = values.clone()
    values[:-4] = values[:-4].mean()
    z = normal(5, *SHAPE)
    expected = wiener(z, levels(), latents.flatten(1).mean(0), vectors @ torch.diag(values) @ vectors.T)
    low_rank = fitted(latents, covariance="full", rank=4)
    assert_close(low_rank(z, levels(), {}).prediction, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rank", [3, 6, None])
def test_fewer_latents_than_dimensions_give_their_singular_covariance(normal: Draw, rank: int | None) -> None:
    latents = correlated(normal, count=7)
    flat = latents.flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0))
    if rank is not None:
        values = torch.cat([values[:-rank].clamp_min(0).mean().expand(12 - rank), values[-rank:]])
    z = normal(5, *SHAPE)
    expected = wiener(z, levels(), flat.mean(0), vectors @ torch.diag(values) @ vectors.T)
    denoiser = fitted(latents, covariance="full", rank=rank)
    assert_close(denoiser(z, levels(), {}).prediction, expected, rtol=1e-8, atol=1e-9)
    assert_close(denoiser.axes.T @ denoiser.axes, torch.eye(denoiser.axes.shape[1], dtype=torch.float64))


def test_axes_of_a_set_with_repeated_latents_are_orthonormal(normal: Draw) -> None:
    denoiser = fitted(normal(3, *SHAPE).repeat(3, 1, 1, 1), covariance="full", rank=5)
    assert_close(denoiser.axes.T @ denoiser.axes, torch.eye(5, dtype=torch.float64))
    assert int((denoiser.variance > 1e-12).sum()) == 2


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full"])
def test_without_noise_it_returns_its_input_and_without_signal_the_mean(
    normal: Draw, covariance: str
) -> None:
    latents = correlated(normal)
    denoiser = fitted(latents, covariance=covariance)
    z = normal(3, *SHAPE)
    assert_close(denoiser(z, NoiseLevel.of(1.0, 0.0), {}).prediction, z)
    mean = latents.mean() if covariance == "isotropic" else latents.mean(0)
    assert_close(denoiser(z, NoiseLevel.of(0.0, 1.0), {}).prediction, mean.expand_as(z))


def test_a_point_mass_is_returned_at_every_level(normal: Draw) -> None:
    denoiser = GaussianDenoiser(GaussianConfig(channels=2, mean=0.25, std=0.0))
    for sigma in (0.0, 1e-20, 0.6, 1.0):
        level = NoiseLevel.of((1 - sigma**2) ** 0.5, sigma)
        assert_close(
            denoiser(normal(1, *SHAPE), level, {}).prediction, torch.full((1, *SHAPE), 0.25).double()
        )


def test_error_is_the_expected_one_for_normal_data(normal: Draw) -> None:
    """Closed form: the mean square error is sigma**2 s / (alpha**2 s + sigma**2) for variance s."""
    denoiser = GaussianDenoiser(GaussianConfig(channels=4, std=2.0))
    x0, level = 2 * normal(400, 4, 5, 5), NoiseLevel.of(0.6, 0.8)
    z = level.add_noise(x0, normal(400, 4, 5, 5))
    error = (denoiser(z, level, {}).prediction - x0).square().mean()
    expected = 0.64 * 4 / (0.36 * 4 + 0.64)
    assert float(error) == pytest.approx(expected, rel=4 * (2 / x0.numel()) ** 0.5)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_epsilon_stays_exact_in_single_precision_at_low_noise(normal: Draw, covariance: str) -> None:
    latents = correlated(normal)
    config = {"covariance": covariance, "prediction": "epsilon"}
    level = NoiseLevel.of((1 - 1e-8) ** 0.5, 1e-4)
    z = level.add_noise(latents[:8], normal(8, *SHAPE))
    exact = fitted(latents, **config)(z, level, {}).prediction
    single = fitted(latents, **config).float()(z.float(), level, {}).prediction
    assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)


def test_every_prediction_type_converts_to_one_clean_estimate(normal: Draw) -> None:
    latents, z = correlated(normal), normal(5, *SHAPE)
    expected = fitted(latents, covariance="full")(z, levels(), {}).prediction
    for prediction in Prediction:
        denoiser = fitted(latents, covariance="full", prediction=prediction)
        output = denoiser(z, levels(), {}).prediction
        assert_close(to_x0(prediction, output, z, levels()), expected, rtol=1e-9, atol=1e-9)


def test_a_latent_of_another_shape_is_refused(normal: Draw) -> None:
    denoiser = fitted(correlated(normal), covariance="diagonal")
    with pytest.raises(ContractError, match=r"\[2, 3, 2\]; it knows latents of \[2, 2, 3\]"):
        denoiser(normal(1, 2, 3, 2), NoiseLevel.of(0.6, 0.8), {})
