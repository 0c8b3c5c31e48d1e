from __future__ import annotations

import pytest
from ldm_oracles import (
    GaussianConfig,
    GaussianDenoiser,
    GaussianMixtureConfig,
    GaussianMixtureDenoiser,
    IdealConfig,
    IdealDenoiser,
)
from ldm_oracles.gaussian import Covariance

from ldm_registry.testing import ComponentSuite, check_component

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


@pytest.mark.parametrize("suite", [TestGaussian, TestGaussianFull, TestMixture, TestMixtureOfTheConfig])
def test_nothing_is_left_behind_on_the_cpu(suite: type[ComponentSuite]) -> None:
    """The meta device stands in for an accelerator: a tensor that stayed on the CPU cannot meet one that moved."""
    report = check_component(suite.component, suite.config, devices=("meta",))
    assert "output_follows_input_to_every_device" not in {failure.name for failure in report.failures}
