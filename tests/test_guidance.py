from __future__ import annotations

from typing import final

import pytest
import torch
from torch import Tensor

from ldm_registry.guidance import guided
from ldm_registry.interfaces import (
    ComponentConfig,
    Condition,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
)
from ldm_registry.vocabulary import Prediction

NULL = 7


@final
class Affine(Denoiser):
    """Puts out `z + 10 * label + log-SNR`, and counts its calls."""

    name = "affine"
    Config = ComponentConfig
    prediction = Prediction.X0
    training_schedule = None
    latent_space = LatentSpace(1, 1)
    size_multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.conditioning = {"class_label": Conditioning(classes=NULL, null=NULL)}
        self.batches: list[int] = []

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        self.batches.append(len(z))
        label = condition["class_label"].to(z.dtype).reshape(-1, 1, 1, 1)
        output = z + 10 * label + level.log_snr.to(z.dtype).reshape(-1, 1, 1, 1)
        return DenoiserOutput(output, variance=label.expand_as(z))


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(params=["shared", "per sample"])
def level(request: pytest.FixtureRequest) -> NoiseLevel:
    level = NoiseLevel.of(0.6, 0.8)
    return level if request.param == "shared" else NoiseLevel(level.alpha.repeat(2), level.sigma.repeat(2))


LABELS = {"class_label": torch.tensor([1, 4])}
NULLS = {"class_label": torch.tensor([NULL, NULL])}


@pytest.mark.parametrize(("scale", "equals"), [(1.0, LABELS), (0.0, NULLS)])
def test_scales_one_and_zero_are_the_two_predictions_at_the_cost_of_one(
    z: Tensor, level: NoiseLevel, scale: float, equals: Condition
) -> None:
    denoiser = Affine()
    output = guided(denoiser, z, level, LABELS, scale)
    assert torch.equal(output.prediction, denoiser(z, level, equals).prediction)
    assert denoiser.batches == [2, 2]


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
def test_guidance_extrapolates_in_one_batched_call(z: Tensor, level: NoiseLevel, scale: float) -> None:
    denoiser = Affine()
    output = guided(denoiser, z, level, LABELS, scale)
    assert denoiser.batches == [4]
    conditional = denoiser(z, level, LABELS)
    unconditional = denoiser(z, level, NULLS).prediction
    expected = unconditional + scale * (conditional.prediction - unconditional)
    torch.testing.assert_close(output.prediction, expected)
    assert output.variance is not None
    assert conditional.variance is not None
    assert torch.equal(output.variance, conditional.variance)
