"""The arithmetic of a step: batches, learning rates, averages, losses, weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_parts
import torch
import toy_plugin
from conftest import blobs
from torch import Tensor, nn

from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import NoiseLevel, Trained
from ldm_registry.prediction import from_x0, to_x0
from ldm_registry.trainable import DecoderOutput
from ldm_registry.training.adversarial import adaptive_weight
from ldm_registry.training.average import Average
from ldm_registry.training.codec import train_codec
from ldm_registry.training.denoiser import levels_of_step, loss_weight, train_denoiser, with_dropout
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.images import mirrored
from ldm_registry.training.latents import Latents
from ldm_registry.training.muon import orthogonalised, suits
from ldm_registry.training.optimizers import rate_share
from ldm_registry.training.seeds import rows_of_step
from ldm_registry.training.settings import CodecTraining, DenoiserTraining
from ldm_registry.vocabulary import Prediction, Scaling


def tiny_codec() -> tuple[tiny_parts.TinyEncoder, tiny_parts.TinyDecoder]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = tiny_parts.TinyEncoder(tiny_parts.TinyConfig())
        encoder.encoder_dropout = nn.Dropout(0.0)
        return encoder, tiny_parts.TinyDecoder(tiny_parts.TinyConfig())


def toy_denoiser(prediction: Prediction = Prediction.V) -> toy_plugin.ToyDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig())
        return toy_plugin.ToyDenoiser(toy_plugin.DenoiserConfig(channels=2), Trained(prediction, schedule))


def some_latents(count: int = 32) -> Latents:
    values = torch.randn(2, count, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    return Latents(values, torch.arange(count) % 3)


def drain(codec_settings: CodecTraining, folder: Path) -> list[Tensor]:
    parts = tiny_codec()
    images = blobs(20, 0)
    for _ in train_codec(*parts, codec_settings, images, validation=images[:2], folder=folder, resume=False):
        pass
    return [tensor for part in parts for tensor in part.parameters()]


def test_every_epoch_sees_every_image_once_and_in_another_order() -> None:
    rows = torch.cat([rows_of_step(10, 4, 0, step) for step in range(5)])
    first, second = rows[:10], rows[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)


def test_a_step_may_see_more_images_than_there_are() -> None:
    assert torch.bincount(rows_of_step(5, 12, 0, 0)).tolist().count(2) == 3


def test_half_of_the_images_are_mirrored_and_none_without_the_setting() -> None:
    assert 0.45 < mirrored(2000, CodecTraining(), 0).double().mean() < 0.55
    assert not mirrored(2000, CodecTraining(flip=False), 0).any()


def test_accumulated_passes_equal_one_large_batch(tmp_path: Path) -> None:
    common = {"steps": 4, "warmup": 0, "validate_every": 0, "ema_half_life": 0.0, "commitment": 0.0}
    large = drain(CodecTraining(batch=8, **common), tmp_path)
    split = drain(CodecTraining(batch=2, accumulate=4, **common), tmp_path)
    start = [tensor for part in tiny_codec() for tensor in part.parameters()]
    for one, other, before in zip(large, split, start, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
        assert not torch.allclose(one, before, atol=5e-4)


def test_accumulated_denoiser_passes_equal_one_large_batch(tmp_path: Path) -> None:
    found = []
    latents = some_latents()
    double = Latents(latents.values.double(), latents.labels)
    for batch, accumulate in ((8, 1), (4, 2)):
        denoiser = toy_denoiser().double()
        settings = DenoiserTraining(
            steps=4, batch=batch, accumulate=accumulate, warmup=0, validate_every=0, ema_half_life=0.0
        )
        run = train_denoiser(
            denoiser,
            settings,
            double,
            validation=double,
            gaussian=GaussianFit.of(latents.flat()),
            folder=tmp_path,
            resume=False,
        )
        assert [progress.stopped for progress in run][-1] == "finished"
        found.append(list(denoiser.parameters()))
    for one, other in zip(*found, strict=True):
        # The loss itself is taken in float32.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_learning_rate_rises_and_falls_as_it_says(decay: str) -> None:
    settings = CodecTraining(steps=110, warmup=10, decay=decay)
    rates = [rate_share(settings, step) for step in range(110)]
    assert rates[4] == pytest.approx(0.5)
    assert rates[9] == max(rates) == 1.0
    middle = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[decay]
    assert rates[60] == pytest.approx(middle)
    assert rates[109] < 0.011 or decay == "constant"


def test_the_average_follows_its_closed_form() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = Average({"m": module}, half_life=4.0, warmup=math.inf)
    expected = 0.0
    for step in range(1, 9):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update(step)
        decay = 0.5 ** (1.0 / 4.0)
        expected = decay * expected + (1.0 - decay) * step
    assert average.tensors()["m.weight"].item() == pytest.approx(expected, rel=1e-12)


def test_averaged_weights_are_there_only_while_they_are_applied() -> None:
    module = nn.Linear(2, 2)
    average = Average({"m": module}, half_life=10.0, warmup=0.1)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    with average.applied():
        assert torch.equal(module.weight, before)
    assert torch.equal(module.weight, before + 1.0)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 40)])
def test_muon_brings_every_singular_value_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert torch.linalg.svdvals(matrix).max() > 3.0


def test_muon_leaves_vectors_and_the_ends_of_a_network_to_adamw() -> None:
    assert suits("encoder.down.conv1.weight", torch.empty(4, 4, 3, 3))
    assert not suits("encoder.down.conv1.bias", torch.empty(4))
    assert not suits("encoder.conv_in.weight", torch.empty(4, 3, 3, 3))


def test_draws_of_time_fill_the_schedule_evenly() -> None:
    schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig(steps=100))
    level = levels_of_step(schedule, DenoiserTraining(), 100, 0)
    assert schedule.time(level).round().tolist() == list(range(100))
    torch.testing.assert_close(level.std, torch.ones(100, dtype=torch.float64))


def test_logit_normal_draws_crowd_the_middle() -> None:
    schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig(steps=1000))
    settings = DenoiserTraining(time_sampling="logit-normal", time_std=0.5)
    share = schedule.time(levels_of_step(schedule, settings, 4000, 0)) / 999
    inside = torch.sigmoid(torch.tensor(0.5)).item()  # one standard deviation
    assert ((share > 1 - inside) & (share < inside)).double().mean().item() == pytest.approx(0.683, abs=0.01)


def test_the_null_label_takes_the_place_of_the_stated_share() -> None:
    labels = with_dropout(
        toy_denoiser(), torch.zeros(4000, dtype=torch.int64), DenoiserTraining(label_dropout=0.25), 0
    )
    assert set(labels.tolist()) == {0, 3}
    assert (labels == 3).double().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(prediction: Prediction) -> None:
    draws = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 1, 2, 2, generator=draws, dtype=torch.float64) for _ in range(2))
    level = NoiseLevel.at(torch.linspace(-3, 3, 5, dtype=torch.float64), Scaling.VP)
    z, target = level.add_noise(x0, noise), from_x0(prediction, x0, noise, level)
    made = target + torch.randn(5, 1, 2, 2, generator=draws, dtype=torch.float64)
    settings = DenoiserTraining(snr_weighting="min-snr", snr_gamma=2.0)
    ours = loss_weight(prediction, level, settings) * (made - target).square().mean((1, 2, 3))
    error = (to_x0(prediction, made, z, level) - x0).square().mean((1, 2, 3))
    torch.testing.assert_close(ours, level.log_snr.exp().clamp(max=2.0) * error)


def test_the_adaptive_weight_is_the_ratio_of_gradients() -> None:
    image = torch.ones(1, 1, 2, 2, requires_grad=True)
    assert adaptive_weight(6.0 * image.sum(), 2.0 * image.sum(), image).item() == pytest.approx(3.0, rel=1e-5)


def test_a_loss_without_a_weight_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = tiny_codec()

    def forward(latent: Tensor) -> DecoderOutput:
        return DecoderOutput(decoder.decode(latent), {"entropy": latent.square().mean()}, {})

    monkeypatch.setattr(decoder, "forward", forward)
    settings, images = CodecTraining(steps=1, batch=2), blobs(4, 0)
    with pytest.raises(SpecError, match="no weight") as caught:
        list(train_codec(encoder, decoder, settings, images, validation=images, folder=tmp_path))
    assert caught.value.problems == ("entropy",)
    weighed = CodecTraining(steps=1, batch=2, weights={"entropy": 0.1})
    last = list(train_codec(encoder, decoder, weighed, images, validation=images, folder=tmp_path))[-1]
    assert last.stopped == "finished"


def test_a_codec_without_a_training_view_is_refused(tmp_path: Path) -> None:
    encoder, decoder = (
        part(toy_plugin.CodecConfig()) for part in (toy_plugin.ToyEncoder, toy_plugin.ToyDecoder)
    )
    with pytest.raises(ContractError, match="no training view"):
        next(
            train_codec(
                encoder, decoder, CodecTraining(), blobs(2, 0), validation=blobs(2, 0), folder=tmp_path
            )
        )


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    latents = some_latents()
    broken = Latents(latents.values.fill_(math.nan), latents.labels)
    settings = DenoiserTraining(steps=50, batch=4, checkpoint_every_s=1e-9, validate_every=0)
    run = train_denoiser(
        toy_denoiser(),
        settings,
        broken,
        validation=broken,
        gaussian=GaussianFit.of(torch.randn(8, 2, 4, 4)),
        folder=tmp_path,
    )
    with pytest.raises(SpecError, match="diverged at step 1"):
        list(run)


def test_training_lowers_the_denoising_error(tmp_path: Path) -> None:
    latents = some_latents(64)
    settings = DenoiserTraining(steps=120, batch=32, warmup=0, learning_rate=2e-2, validate_every=60)
    run = train_denoiser(
        toy_denoiser(),
        settings,
        latents,
        validation=latents,
        gaussian=GaussianFit.of(latents.flat()),
        folder=tmp_path,
    )
    errors = [progress.validation["x0_mse"] for progress in run if progress.validation]
    assert len(errors) == 2
    assert errors[1] < errors[0] < 1.5
