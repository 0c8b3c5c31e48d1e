from __future__ import annotations

from ldm_oracles import (
    GaussianConfig,
    GaussianDenoiser,
    GaussianMixtureConfig,
    GaussianMixtureDenoiser,
    IdealConfig,
    IdealDenoiser,
)
from ldm_oracles.gaussian import Covariance

from ldm_registry.testing import ComponentSuite

ONCE = {
    "an_installed_distribution_declares_it": "the suite of another config has looked already",
    "listing_imports_neither_it_nor_torch": "the suite of another config has looked already",
}


class TestGaussian(ComponentSuite):
    component = GaussianDenoiser


class TestGaussianFull(ComponentSuite):
    component = GaussianDenoiser
    config = GaussianConfig(channels=2, size=(4, 3), covariance=Covariance.FULL, rank=5)
    skip = ONCE


class TestMixture(ComponentSuite):
    component = GaussianMixtureDenoiser
    config = GaussianMixtureConfig(components=3, channels=2, size=(4, 3))


class TestMixtureOfTheConfig(ComponentSuite):
    component = GaussianMixtureDenoiser
    config = GaussianMixtureConfig(channels=2, means=(-1.0, 1.0), stds=(0.5, 0.2))
    skip = ONCE


class TestIdeal(ComponentSuite):
    component = IdealDenoiser
    config = IdealConfig(channels=2, size=(4, 3), classes=4)
