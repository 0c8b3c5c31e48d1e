from __future__ import annotations

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject
from torch import Tensor

from ldm_registry.diagnostics import diagnose
from ldm_registry.diagnostics.chosen_features import chosen, pooled
from ldm_registry.diagnostics.sample_quality import _distances, measure_sample_quality
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Encoder, LatentSpace

SIDE = 8


class Corner(Encoder):
    """Hands on the colours of the first pixel."""

    name = "corner"

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.image_channels, self.latent_space = channels, LatentSpace(channels, SIDE)

    def encode(self, image: Tensor, generator: object = None) -> Tensor:
        return image[..., :1, :1]


def images_whose_corners_have(mean: Tensor, std: Tensor, count: int, seed: int) -> Tensor:
    """Of exactly this mean and these standard deviations, as samples have them."""
    values = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values -= values.mean(0)
    values = torch.linalg.qr(values).Q * (count - 1) ** 0.5
    corners = (mean + values * std).float()
    assert corners.abs().max() < 1
    images = torch.zeros(count, len(mean), SIDE, SIDE)
    images[..., 0, 0] = corners
    return images


def test_chosen_features_give_the_closed_form_distance_of_known_gaussians() -> None:
    mean_a, mean_b = torch.tensor([0.1, -0.2, 0.0]), torch.tensor([0.0, 0.1, 0.2])
    std_a, std_b = torch.tensor([0.1, 0.05, 0.2]), torch.tensor([0.1, 0.15, 0.05])
    made = images_whose_corners_have(mean_a, std_a, 20, 0)
    known = images_whose_corners_have(mean_b, std_b, 30, 1)
    found = {metric.name: metric for metric in _distances(made, known, chosen(Corner(), known))}
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    assert found["chosen_frechet_distance"].value == pytest.approx(float(expected), rel=1e-4)
    assert "(corner)" in found["chosen_frechet_distance"].about
    assert {"chosen_kernel_distance", "convolution_frechet_distance", "patch_kernel_distance"} <= set(found)


def test_no_choice_leaves_the_features_that_need_none() -> None:
    known = images_whose_corners_have(torch.zeros(3), torch.full((3,), 0.1), 8, 2)
    assert not any(metric.name.startswith("chosen") for metric in _distances(known, known, None))


def test_a_function_of_images_gives_features() -> None:
    def means(images: Tensor) -> Tensor:
        return images.mean((-2, -1))

    images = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = chosen(means, images)
    assert found.name == "means"
    assert torch.equal(found(images), images.mean((-2, -1)).double())


def test_latents_are_pooled_to_mean_and_deviation() -> None:
    latents = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    assert pooled(latents).tolist() == [[2.0, 2.0, 1.0, 0.0]]


def failing(images: Tensor) -> Tensor:
    raise RuntimeError("wants 299 pixels")


@pytest.mark.parametrize(
    ("features", "shape", "words"),
    [
        (Corner(1), (3, 8, 8), "takes images of 1 channels; these have 3"),
        (Corner(), (3, 12, 8), "takes multiples of 8 pixels; these are 12 x 8"),
        (failing, (3, 8, 8), "wants 299 pixels"),
        (lambda images: images, (3, 8, 8), r"expected finite \[2, D\], got \[2, 3, 8, 8\]"),
        (lambda images: images.flatten(1) * torch.nan, (3, 8, 8), "not finite"),
        ("inception", (3, 8, 8), "an encoder or a function of images; got str"),
    ],
)
def test_features_that_do_not_fit_are_refused(features: object, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        chosen(features, torch.zeros(2, *shape))  # type: ignore[arg-type]  # the last one is no function


@pytest.mark.plugins
def test_features_are_refused_for_one_stage_and_before_anything_is_measured() -> None:
    pipe = emoji_subject("emoji-pixel-dit", 8).pipe
    with pytest.raises(SpecError, match="scheduler"):
        diagnose(pipe, stage="scheduler", features=Corner())
    with pytest.raises(SpecError, match="takes images of 1 channels"):
        diagnose(pipe, features=Corner(1))


@pytest.mark.plugins
@pytest.mark.slow
def test_samples_are_compared_by_an_encoder_of_the_users() -> None:
    one = emoji_subject("emoji-kl-dit", 16)
    features = chosen(one.pipe.encoder, one.images)
    found = measure_sample_quality(Subject(one.pipe, one.images, one.condition, 0, True, features))
    values = {metric.name: metric.value for metric in found.metrics}
    assert 0 < values["chosen_frechet_distance"] < 100
    assert not found.suspicions
