from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ldm_oracles import IdealConfig, IdealDenoiser
from torch import Tensor
from torch.testing import assert_close

from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Prediction, Scaling

Draw = Callable[..., Tensor]
SHAPE = (2, 3, 2)
LABELS = torch.tensor([0, 0, 1, 1, 1, 3, 3, 0])


def fitted(references: Tensor, labels: Tensor | None = None, **config: object) -> IdealDenoiser:
    denoiser = IdealDenoiser(IdealConfig.model_validate(config))
    denoiser.fit(references, {} if labels is None else {"class_label": labels})
    return denoiser


def posterior_mean(z: Tensor, level: NoiseLevel, references: Tensor) -> Tensor:
    """Bayes' rule written out, in float64."""
    alpha, sigma = level.alpha.reshape(-1, 1, 1, 1, 1), level.sigma.reshape(-1, 1, 1, 1, 1)
    square = (z[:, None] - alpha * references).square().flatten(2).sum(2)
    log_weight = -square / (2 * sigma.flatten(1) ** 2)
    weight = torch.exp(log_weight - log_weight.logsumexp(1, keepdim=True))
    return torch.einsum("bn,nchw->bchw", weight, references)


def test_it_is_bayes_rule_over_the_references_at_each_samples_own_level(normal: Draw) -> None:
    references, z = normal(8, *SHAPE), normal(4, *SHAPE)
    level = NoiseLevel.at(torch.tensor([-8.0, -1.0, 1.0, 3.0]), Scaling.VP)
    output = fitted(references)(z, level, {}).prediction
    assert_close(output, posterior_mean(z, level, references))


def test_single_precision_agrees_with_double_down_to_low_noise(normal: Draw) -> None:
    references = normal(8, *SHAPE)
    references[1] = references[0] + 1e-3  # a close pair, which low noise has to tell apart
    for log_snr in (-12.0, 0.0, 8.0, 13.0):
        level = NoiseLevel.at(torch.tensor(log_snr), Scaling.VP)
        z = level.add_noise(references, normal(8, *SHAPE))
        single = fitted(references).float()(z.float(), level, {}).prediction
        assert_close(single.double(), posterior_mean(z, level, references), rtol=0, atol=1e-4)


def test_single_precision_tells_references_apart_that_lie_far_from_the_origin(normal: Draw) -> None:
    """The distance between near points must not come out as a difference of large squares."""
    references = 300 + 0.1 * normal(8, *SHAPE)
    level = NoiseLevel.at(torch.tensor(6.0), Scaling.VP)
    z = level.add_noise(references, normal(8, *SHAPE)).float()
    single = fitted(references).float()(z, level, {}).prediction
    assert_close(single.double(), posterior_mean(z.double(), level, references), rtol=0, atol=3e-3)


def test_without_noise_even_the_closest_references_are_told_apart(normal: Draw) -> None:
    references = normal(1, *SHAPE) + 1e-7 * normal(2, *SHAPE)
    output = fitted(references)(references, NoiseLevel.of(1.0, 0.0), {}).prediction
    assert torch.equal(output, references)


@pytest.mark.parametrize("sigma", [0.0, 1e-30, 1e-6])
def test_without_noise_it_returns_the_nearest_reference_exactly(normal: Draw, sigma: float) -> None:
    references = normal(8, *SHAPE)
    z = references[[5, 2]] + 0.05 * normal(2, *SHAPE)
    output = fitted(references)(z, NoiseLevel.of((1 - sigma**2) ** 0.5, sigma), {}).prediction
    assert torch.equal(output, references[[5, 2]])


def test_without_noise_equally_near_references_share(normal: Draw) -> None:
    references = torch.stack([torch.ones(SHAPE), -torch.ones(SHAPE), torch.full(SHAPE, 9.0)]).double()
    output = fitted(references)(torch.zeros(1, *SHAPE).double(), NoiseLevel.of(1.0, 0.0), {}).prediction
    assert torch.equal(output, torch.zeros(1, *SHAPE).double())


def test_without_signal_it_returns_the_mean_of_the_set(normal: Draw) -> None:
    references = normal(8, *SHAPE)
    z, level = normal(2, *SHAPE), NoiseLevel.of(0.0, 1.0)
    assert_close(fitted(references)(z, level, {}).prediction, references.mean(0).expand(2, *SHAPE))
    of_class = fitted(references, LABELS, classes=4)(
        z, level, {"class_label": torch.tensor([1, 3])}
    ).prediction
    assert_close(of_class, torch.stack([references[2:5].mean(0), references[5:7].mean(0)]))


def test_a_class_is_the_ideal_denoiser_of_its_subset_and_null_of_the_whole_set(normal: Draw) -> None:
    references, z, level = normal(8, *SHAPE), normal(4, *SHAPE), NoiseLevel.of(0.8, 0.6)
    denoiser = fitted(references, LABELS, classes=4)
    output = denoiser(z, level, {"class_label": torch.tensor([0, 1, 3, 4])}).prediction
    for row, label in enumerate((0, 1, 3)):
        subset = fitted(references[label == LABELS])
        assert_close(output[row : row + 1], subset(z[row : row + 1], level, {}).prediction)
    whole = denoiser(z, level, {}).prediction
    assert torch.equal(output[3], whole[3])
    assert_close(whole, fitted(references)(z, level, {}).prediction)


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.0])
def test_gradients_are_finite_at_every_level(normal: Draw, sigma: float) -> None:
    denoiser = fitted(normal(8, *SHAPE), LABELS, classes=4)
    z = normal(2, *SHAPE).requires_grad_()
    level = NoiseLevel.of((1 - sigma**2) ** 0.5, sigma)
    for prediction in Prediction:
        denoiser.prediction = prediction
        output = denoiser(z, level, {"class_label": torch.tensor([0, 4])}).prediction
        (gradient,) = torch.autograd.grad(output.square().sum(), z)
        assert output.isfinite().all()
        assert gradient.isfinite().all()


def test_every_prediction_type_converts_to_one_clean_estimate(normal: Draw) -> None:
    references, z, level = normal(8, *SHAPE), normal(4, *SHAPE), NoiseLevel.of(0.8, 0.6)
    expected = fitted(references)(z, level, {}).prediction
    for prediction in Prediction:
        output = fitted(references, prediction=prediction)(z, level, {}).prediction
        assert_close(to_x0(prediction, output, z, level), expected)


def test_a_class_that_no_reference_has_is_refused_by_name(normal: Draw) -> None:
    denoiser = fitted(normal(8, *SHAPE), LABELS, classes=4)
    with pytest.raises(SpecError, match="no references for class 2, 7") as caught:
        denoiser(normal(3, *SHAPE), NoiseLevel.of(0.8, 0.6), {"class_label": torch.tensor([7, 2, 1])})
    assert "choose from [0, 1, 3], or 4 for the whole set" in str(caught.value)


def test_a_label_beyond_the_declared_classes_cannot_be_fitted(normal: Draw) -> None:
    with pytest.raises(SpecError, match="labels run from 0 to 3"):
        fitted(normal(8, *SHAPE), LABELS, classes=3)


def test_a_latent_of_another_shape_is_refused(normal: Draw) -> None:
    with pytest.raises(ContractError, match=r"it knows latents of \[2, 3, 2\]"):
        fitted(normal(8, *SHAPE))(normal(1, 2, 4, 2), NoiseLevel.of(0.8, 0.6), {})


def test_fitting_again_without_labels_makes_it_unconditional(normal: Draw) -> None:
    denoiser = fitted(normal(8, *SHAPE), LABELS)
    assert denoiser.conditioning["class_label"].classes == 4
    config = denoiser.fit(normal(5, 1, 2, 2), {})
    assert config.model_dump(include={"references", "channels", "size", "classes"}) == {
        "references": 5,
        "channels": 1,
        "size": (2, 2),
        "classes": None,
    }
    assert denoiser.conditioning == {}
    assert set(denoiser.state_dict()) == {"references"}
