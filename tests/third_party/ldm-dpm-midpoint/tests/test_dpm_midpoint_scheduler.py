import torch
from ldm_registry.interfaces import Denoised, NoiseLevel
from ldm_registry.testing import ComponentSuite, StraightConfig, StraightSchedule
from torch import Tensor

from ldm_dpm_midpoint.scheduler import DpmMidpointScheduler, SchedulerConfig


class TestDpmMidpointScheduler(ComponentSuite):
    component = DpmMidpointScheduler


def error_of_std(steps: int) -> float:
    """How far the std of samples of standard normal data is off, with their exact denoiser."""

    def exact(z: Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = level.scales(z)
        return Denoised(alpha * z / (alpha**2 + sigma**2))

    scheduler = DpmMidpointScheduler(SchedulerConfig(steps=steps), StraightSchedule(StraightConfig()))
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    # Ends without the last step, which is of first order.
    *_, last, _ = scheduler.trajectory(exact, scheduler.levels().prior(noise))
    return abs(float(last.z) - 1)


def test_it_is_of_second_order() -> None:
    assert 3.5 < error_of_std(40) / error_of_std(80) < 4.5
