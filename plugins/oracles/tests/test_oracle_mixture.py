from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ldm_oracles import (
    GaussianConfig,
    GaussianDenoiser,
    GaussianMixtureConfig,
    GaussianMixtureDenoiser,
    IdealConfig,
    IdealDenoiser,
)
from pydantic import ValidationError
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Prediction, Scaling

Draw = Callable[..., Tensor]
SHAPE = (2, 2, 3)
LEVEL = NoiseLevel.at(torch.tensor([-3.0, -0.5, 1.0, 4.0]), Scaling.VP)


def three_gaussians(normal: Draw) -> GaussianMixtureDenoiser:
    """A mixture with its own mean and variance for every value."""
    config = GaussianMixtureConfig(components=3, channels=2, size=(2, 3))
    denoiser = GaussianMixtureDenoiser(config).double()
    state = {
        "log_proportions": torch.tensor([0.2, 0.5, 0.3]).double().log(),
        "means": normal(3, *SHAPE),
        "variances": (0.5 * normal(3, *SHAPE)).exp(),
    }
    denoiser.load_state_dict(state)
    return denoiser


def clusters(normal: Draw) -> Tensor:
    """300 latents around three far-apart centres, 60 of them around the first."""
    centre = torch.tensor([-6.0, 0.0, 6.0]).double().repeat_interleave(torch.tensor([60, 120, 120]))
    return centre.view(-1, 1, 1, 1) + normal(300, *SHAPE) * torch.tensor([0.5, 1.0]).double().view(2, 1, 1)


def fitted(latents: Tensor, **config: Any) -> GaussianMixtureDenoiser:
    denoiser = GaussianMixtureDenoiser(GaussianMixtureConfig(**config))
    denoiser.fit(latents, {})
    return denoiser


def test_it_obeys_tweedies_formula_for_the_density_of_the_noisy_latent(normal: Draw) -> None:
    """E[x0 | z] = (z + sigma**2 grad log p(z)) / alpha, with p built from torch.distributions."""
    denoiser = three_gaussians(normal)
    z = normal(4, *SHAPE).requires_grad_()
    alpha, sigma = LEVEL.scales(z)
    components = Normal(
        alpha[:, None] * denoiser.means,
        (alpha[:, None] ** 2 * denoiser.variances + sigma[:, None] ** 2).sqrt(),
    )
    shares = Categorical(logits=denoiser.log_proportions.expand(4, 3))
    log_density = MixtureSameFamily(shares, Independent(components, 3)).log_prob(z)
    (score,) = torch.autograd.grad(log_density.sum(), z)
    output = denoiser(z, LEVEL, {}).prediction
    assert_close(output, (z + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-9)


def test_the_noise_estimate_goes_with_the_clean_one(normal: Draw) -> None:
    denoiser, z = three_gaussians(normal), normal(4, *SHAPE)
    expected = denoiser(z, LEVEL, {}).prediction
    for prediction in Prediction:
        denoiser.prediction = prediction
        assert_close(to_x0(prediction, denoiser(z, LEVEL, {}).prediction, z, LEVEL), expected)


def test_one_component_is_the_gaussian_denoiser(normal: Draw) -> None:
    latents, z = clusters(normal), normal(4, *SHAPE)
    mixture = fitted(latents, components=1)
    gaussian = GaussianDenoiser(GaussianConfig(covariance="diagonal"))
    gaussian.fit(latents, {})
    assert_close(mixture(z, LEVEL, {}).prediction, gaussian(z, LEVEL, {}).prediction)


def test_many_narrow_components_are_the_ideal_denoiser(normal: Draw) -> None:
    z = normal(4, 1, 4, 5)
    narrow = GaussianMixtureConfig(components=3, channels=1, means=(-1, 0, 2), stds=(1e-7, 1e-7, 1e-7))
    points = torch.tensor([-1.0, 0.0, 2.0]).double().view(3, 1, 1, 1).expand(3, 1, 4, 5)
    ideal = IdealDenoiser(IdealConfig())
    ideal.fit(points, {})
    mixture = GaussianMixtureDenoiser(narrow)
    assert_close(mixture(z, LEVEL, {}).prediction, ideal(z, LEVEL, {}).prediction)


def test_without_noise_it_returns_its_input_and_without_signal_the_mean(normal: Draw) -> None:
    denoiser, z = three_gaussians(normal), normal(3, *SHAPE)
    assert_close(denoiser(z, NoiseLevel.of(1.0, 0.0), {}).prediction, z)
    mean = torch.einsum("k,kchw->chw", denoiser.log_proportions.exp(), denoiser.means)
    assert_close(denoiser(z, NoiseLevel.of(0.0, 1.0), {}).prediction, mean.expand_as(z))


def test_a_mixture_in_the_config_needs_no_weights_and_takes_any_size(normal: Draw) -> None:
    config = GaussianMixtureConfig(
        components=2, channels=1, means=(-1.0, 1.0), stds=(0.1, 0.1), proportions=(1.0, 3.0)
    )
    denoiser = GaussianMixtureDenoiser(config)
    assert not denoiser.state_dict()
    output = denoiser(normal(2, 1, 5, 2), NoiseLevel.of(0.0, 1.0), {}).prediction
    assert_close(output, torch.full((2, 1, 5, 2), 0.5).double())


@pytest.mark.parametrize("isotropic", [False, True])
def test_fit_recovers_the_moments_of_well_separated_clusters_exactly(normal: Draw, isotropic: bool) -> None:
    latents = clusters(normal)
    mixture = fitted(latents, components=3, isotropic=isotropic)
    order = mixture.means.flatten(1).mean(1).argsort()
    groups = latents[:60], latents[60:180], latents[180:]
    assert_close(mixture.log_proportions[order].exp(), torch.tensor([0.2, 0.4, 0.4]).double())
    for index, group in zip(order, groups, strict=True):
        assert_close(mixture.means[index], group.mean(0))
        variance = group.var(0, correction=0)
        variance = variance.mean().expand_as(variance) if isotropic else variance
        assert_close(mixture.variances[index], variance)


def test_more_rounds_of_fitting_never_lower_the_likelihood(normal: Draw) -> None:
    latents = clusters(normal) * 0.15  # clusters that overlap

    def mean_log_likelihood(rounds: int) -> float:
        mixture = fitted(latents, components=4, iterations=rounds, tolerance_nats=0)
        components = Independent(Normal(mixture.means, mixture.variances.sqrt()), 3)
        shares = Categorical(logits=mixture.log_proportions)
        return float(MixtureSameFamily(shares, components).log_prob(latents).mean())

    likelihoods = [mean_log_likelihood(rounds) for rounds in (1, 2, 4, 8, 16)]
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] > likelihoods[0] + 0.01


def test_fitting_twice_gives_one_mixture_and_leaves_the_global_generator_alone(normal: Draw) -> None:
    latents, before = clusters(normal), torch.get_rng_state()
    first, second = fitted(latents, components=5, seed=3), fitted(latents, components=5, seed=3)
    assert torch.equal(first.means, second.means)
    assert torch.equal(torch.get_rng_state(), before)


def test_latents_that_all_coincide_are_fitted_with_the_smallest_allowed_variance() -> None:
    mixture = fitted(torch.ones(4, *SHAPE).double(), components=2, min_std=0.1)
    assert_close(mixture.means, torch.ones(2, *SHAPE).double())
    assert_close(mixture.variances, torch.full((2, *SHAPE), 0.01).double())


def test_more_components_than_latents_are_refused(normal: Draw) -> None:
    with pytest.raises(SpecError, match="mixture of 4 Gaussians cannot be fitted to 3 latents"):
        fitted(normal(3, *SHAPE), components=4)


@pytest.mark.parametrize("wrong", [{"means": (0.0,), "stds": (1.0, 1.0)}, {"stds": (1.0, 1.0)}])
def test_an_incomplete_mixture_in_the_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give one for each of the 2 components, or none"):
        GaussianMixtureConfig(**wrong)
