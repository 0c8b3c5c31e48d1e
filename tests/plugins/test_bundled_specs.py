"""The bundled specs run, and their checkpoints are as good as their contracts say: measured again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_registry.assembly import assemble
from ldm_registry.contracts import Contract, DenoisingError
from ldm_registry.data import ImageSet, read_images, to_unit
from ldm_registry.interfaces import NoiseLevel, randn
from ldm_registry.pipeline import Pipeline
from ldm_registry.prediction import to_x0
from ldm_registry.spec import bundled_specs, load_spec, swap
from ldm_registry.training.seeds import seeded
from ldm_registry.vocabulary import Scaling
from ldm_registry.weights import read_contract

pytestmark = pytest.mark.plugins

SPECS = bundled_specs()
PSNR_DB = {"emoji-kl-dit": 26.0, "emoji-vq-dit": 24.0}
RATIO_TO_GAUSSIAN = {"emoji-kl-dit": 0.85}


@pytest.fixture(scope="module")
def validation(root: Path) -> ImageSet:
    return read_images(root / "specs" / "data" / "noto-emoji-64-val.tar")


def contract_of(checkpoint: str | None) -> Contract:
    assert checkpoint is not None
    contract = read_contract(Path(checkpoint))
    assert contract is not None
    return contract


def encoded(pipe: Pipeline, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([pipe.encoder.encode(to_unit(part)) for part in images.split(64)])


def test_the_bundled_specs_are_those_of_the_readme() -> None:
    assert SPECS == [
        "emoji-kl-dit",
        "emoji-kl-ideal",
        "emoji-kl-unet",
        "emoji-pixel-dit",
        "emoji-pixel-unet",
        "emoji-vq-dit",
    ]


@pytest.mark.parametrize("name", SPECS)
def test_every_bundled_spec_makes_images_without_a_warning(name: str) -> None:
    spec = swap(load_spec(name), scheduler_config={"steps": 2})
    pipe = assemble(spec)
    assert pipe.warnings == ()
    images = pipe.sample(2)
    assert images.shape == (2, 3, 64, 64)
    assert bool(images.isfinite().all())


def test_all_checkpoints_together_stay_under_24_mb(root: Path) -> None:
    folder = root / "specs" / "checkpoints"
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= 24e6


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PSNR_DB))
def test_the_codecs_round_trip_and_latents_are_what_their_contracts_say(
    name: str, validation: ImageSet
) -> None:
    pipe = assemble(load_spec(name))
    contract = contract_of(pipe.spec.encoder.checkpoint)
    assert contract.self_test is not None
    pixels = to_unit(validation.images)
    made = torch.cat([pipe.reconstruct(part) for part in pixels.split(64)])
    # The peak-to-peak range of [-1, 1] is 2.
    psnr_db = float((10 * torch.log10(4 / (made - pixels).double().square().mean((1, 2, 3)))).mean())
    assert psnr_db == pytest.approx(contract.self_test.round_trip_psnr_db, abs=0.01)
    assert psnr_db >= PSNR_DB[name]
    latents = encoded(pipe, validation.images).double()
    assert float(latents.mean((0, 2, 3)).abs().max()) <= 0.05
    assert float((latents.std((0, 2, 3)) - 1).abs().max()) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_the_denoisers_errors_are_what_their_contracts_say(name: str, validation: ImageSet) -> None:
    pipe = assemble(load_spec(name))
    contract = contract_of(pipe.spec.denoiser.checkpoint)
    assert contract.self_test is not None
    errors = contract.self_test.denoising_error
    assert [error.log_snr for error in errors] == [float(nats) for nats in range(-4, 5)]
    latents = encoded(pipe, validation.images)
    noise = randn(latents.shape, seeded(0, "self-test"))
    for error in errors[::4]:
        assert x0_mse(pipe, latents, noise, validation.labels, error) == pytest.approx(
            error.x0_mse, rel=0.01, abs=1e-6
        )
    ratio = sum(error.x0_mse / error.gaussian_x0_mse for error in errors) / len(errors)
    assert ratio <= RATIO_TO_GAUSSIAN.get(name, 1.0)


def x0_mse(pipe: Pipeline, latents: Tensor, noise: Tensor, labels: Tensor, error: DenoisingError) -> float:
    level = NoiseLevel.at(torch.tensor(error.log_snr, dtype=torch.float64), Scaling.VP)
    total = 0.0
    for part, epsilon, label in zip(latents.split(64), noise.split(64), labels.split(64), strict=True):
        z = level.add_noise(part, epsilon)
        with torch.inference_mode():
            output = pipe.denoiser(z, level, {"class_label": label})
            x0 = to_x0(pipe.denoiser.prediction, output.prediction, z, level)
        total += float((x0.double() - part).square().sum())
    return total / latents.numel()
