"""A UNet in training: the layout that its weights take on for predictions leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ldm_unet import UNet
from torch import Tensor

from ldm_registry.training.denoiser import train_denoiser
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.latents import Latents
from ldm_registry.training.settings import DenoiserTraining

Build = Callable[..., UNet]


def trained_until(network: UNet, settings: DenoiserTraining, folder: Path, stop: int) -> int:
    """Train on random latents, with a prediction between any two steps, and abandon the run after a step.

    Returns:
        The step at which it began.
    """
    values = torch.randn(2, 16, 2, 16, 16, generator=torch.Generator().manual_seed(3))
    latents = Latents(values, torch.zeros(16, dtype=torch.int64))
    seen = []
    for progress in train_denoiser(
        network,
        settings,
        latents,
        validation=latents,
        gaussian=GaussianFit.of(latents.flat()),
        folder=folder,
        identity={},
    ):
        seen.append(progress.step)
        if progress.step >= stop and progress.stopped is None:
            break
    return seen[0]


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_bits(build: Build, tmp_path: Path) -> None:
    settings = DenoiserTraining(
        steps=6, batch=4, warmup=2, validate_every=1, checkpoint_every_s=1e-9, ema_half_life=3.0
    )
    ends: list[dict[str, Tensor]] = []
    for name, stops in (("whole", [6]), ("pieces", [2, 4, 6])):
        before = 0
        for stop in stops:
            network = build(in_channels=2, out_channels=2, sample_size=16)
            fresh = {key: value.clone() for key, value in network.state_dict().items()}
            begin = trained_until(network, settings, tmp_path / name, stop)
            assert begin > before
            before = stop - 1
        ends.append(network.state_dict())
    assert [key for key, value in ends[0].items() if not torch.equal(value, ends[1][key])] == []
    assert not torch.equal(ends[0]["conv_in.weight"], fresh["conv_in.weight"])
