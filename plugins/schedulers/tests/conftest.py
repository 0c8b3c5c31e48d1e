"""Exact denoisers to hold the samplers against, and what every test of this plugin needs to run one."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ldm_schedulers
import pytest
import torch
from torch import Tensor

from ldm_registry.interfaces import Denoise, Denoised, Generators, NoiseLevel, Scheduler, Step
from ldm_registry.vocabulary import Kind

sys.path.insert(0, str(Path(__file__).parent))

COMPONENTS = ldm_schedulers.register_components()
SAMPLERS = [component for component in COMPONENTS if component.kind is Kind.SCHEDULER]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Gaussian:
    """Data of independent values N(mean, std**2), whose posterior mean is known at every level."""

    mean: float = 0.3
    std: float = 0.7

    def denoise(self, z: Tensor, level: NoiseLevel) -> Denoised:
        """E[x0 | z], exactly."""
        alpha, sigma = level.scales(z)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return Denoised(self.mean + gain * (z - alpha * self.mean))

    def flow(self, y: float, start: float, end: float) -> float:
        """Where the probability-flow equation takes `y = z / alpha` between two sigma / alpha, in closed form."""
        gain = math.sqrt((self.std**2 + end**2) / (self.std**2 + start**2))
        return self.mean + gain * (y - self.mean)


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


def run(sampler: Scheduler, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> list[Step]:
    """Every step of one run."""
    return list(sampler.trajectory(denoise, z, generator))


@pytest.fixture(name="run")
def run_fixture() -> Callable[..., list[Step]]:
    return run


@pytest.fixture(params=SAMPLERS, ids=lambda component: component.name)
def sampler_class(request: pytest.FixtureRequest) -> type[Scheduler]:
    """Each sampler of the plugin in turn."""
    sampler: type[Scheduler] = request.param
    return sampler


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
