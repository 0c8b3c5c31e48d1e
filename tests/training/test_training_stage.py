"""`train` from a spec to a checkpoint that the rest of the package takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_parts
import torch

from ldm_registry.assembly import assemble
from ldm_registry.data import read_images, to_unit
from ldm_registry.digests import verify
from ldm_registry.errors import ContractError, NotFoundError, SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec
from ldm_registry.training import Progress, train
from ldm_registry.training.self_test import mean_psnr_db
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import read_contract


def assembled(spec: Path) -> Pipeline:
    """The trained pipeline; the contract says by now how the denoiser was trained."""
    spec.write_text("".join(line for line in spec.read_text().splitlines(True) if "trained:" not in line))
    return assemble(load_spec(spec), Registry([tiny_parts]))


def run(stage: str, spec: Path) -> list[Progress]:
    return list(train(stage, load_spec(spec), registry=Registry([tiny_parts])))


def test_codec_and_denoiser_train_into_a_pipeline_that_runs(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    spec = workshop()
    codec, denoiser = run("encoder", spec)[-1], run("denoiser", spec)[-1]
    assert (codec.stopped, codec.checkpoint) == ("finished", tmp_path / "codec")
    assert (denoiser.stopped, denoiser.checkpoint) == ("finished", tmp_path / "denoiser")
    pipeline = assembled(spec)
    assert pipeline.sample(2, seed=0).shape == (2, 3, 16, 16)


def test_the_contract_of_a_codec_holds_what_is_measured_on_its_stored_weights(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    spec = workshop()
    figures = run("encoder", spec)[-1].validation
    contract = read_contract(tmp_path / "codec")
    assert contract is not None
    verify(tmp_path / "codec", contract)
    assert contract.components == {Kind.ENCODER: "tiny-codec", Kind.DECODER: "tiny-codec"}
    assert contract.latent_declared is not None
    assert contract.latent_declared.mean == pytest.approx((0.0, 0.0), abs=1e-3)
    assert contract.latent_declared.std == pytest.approx((1.0, 1.0), abs=1e-3)
    assert contract.self_test is not None
    assert (contract.self_test.perplexity, contract.self_test.dead_codes) == (3.5, 2)
    run("denoiser", spec)
    pipeline = assembled(spec)
    pixels = to_unit(read_images(tmp_path / "val.tar").images)
    again = mean_psnr_db(pipeline.reconstruct(pixels), pixels)
    assert contract.self_test.round_trip_psnr_db == pytest.approx(again, abs=1e-3)
    assert figures["psnr_db"] == contract.self_test.round_trip_psnr_db


def test_the_contract_of_a_denoiser_says_how_it_was_trained(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    spec = workshop()
    run("encoder", spec)
    figures = run("denoiser", spec)[-1].validation
    contract, codec = read_contract(tmp_path / "denoiser"), read_contract(tmp_path / "codec")
    assert contract is not None
    assert codec is not None
    assert contract.prediction == "v"
    assert contract.schedule is not None
    assert contract.schedule["name"] == "toy_schedule"
    assert (contract.classes, contract.null_class, contract.latent_sizes) == (3, 3, ((4, 4),))
    assert contract.codec_sha256 == codec.files["diffusion_pytorch_model.safetensors"].sha256
    assert contract.self_test is not None
    assert len(contract.self_test.denoising_error) == 9
    ratios = [one.x0_mse / one.gaussian_x0_mse for one in contract.self_test.denoising_error]
    assert figures["ratio_to_gaussian"] == pytest.approx(sum(ratios) / 9)


def test_the_card_says_on_what_for_how_long_and_with_which_command(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    run("encoder", workshop())
    card = (tmp_path / "codec" / "README.md").read_text()
    for words in (
        "ldm train encoder tiny.yaml",
        "train.tar",
        "round-trip PSNR",
        "images seen | 96",
        "torch ",
    ):
        assert words in card
    assert card.startswith("---\nlibrary_name: ldm-registry\n")


def test_the_card_warns_when_the_images_of_the_figures_were_trained_on(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    spec = workshop()
    warning = "made from these very images"
    run("encoder", spec)
    assert warning not in (tmp_path / "codec" / "README.md").read_text()
    (tmp_path / "codec").rename(tmp_path / "older")
    spec.write_text(spec.read_text().replace("images: val.tar", "images: train.tar"))
    run("encoder", spec)
    assert warning in (tmp_path / "codec" / "README.md").read_text()


def test_an_oracle_is_fitted_to_the_latents(workshop: Callable[..., Path], tmp_path: Path) -> None:
    spec = workshop("tiny-mean")
    run("encoder", spec)
    run("denoiser", spec)
    pipeline = assembled(spec)
    latents = pipeline.encoder.encode(to_unit(read_images(tmp_path / "train.tar").images))
    mirrored = pipeline.encoder.encode(to_unit(read_images(tmp_path / "train.tar").images.flip(3)))
    got = pipeline.denoiser.get_buffer("mean").float()
    torch.testing.assert_close(got, torch.cat([latents, mirrored]).mean(0), rtol=1e-2, atol=1e-3)


def test_a_denoiser_needs_a_trained_codec(workshop: Callable[..., Path]) -> None:
    with pytest.raises((ContractError, NotFoundError), match="codec"):
        run("denoiser", workshop())


def test_a_training_may_start_from_another_checkpoint(workshop: Callable[..., Path], tmp_path: Path) -> None:
    spec = workshop()
    first = run("encoder", spec)[-1].validation["psnr_db"]
    (tmp_path / "codec").rename(tmp_path / "older")
    text = spec.read_text().replace("codec: {steps: 12", "codec: {initialise_from: older, steps: 12")
    spec.write_text(text)
    assert run("encoder", spec)[-1].validation["psnr_db"] > first
    assert "| started from | older |" in (tmp_path / "codec" / "README.md").read_text()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("train:\n  codec: {steps: 12", "train:\n  codec_: {steps: 12", "codec_"),
        ("data: {images: val.tar, train: train.tar}", "", "no images to train on"),
        ("image: {channels: 3, size: 16}", "image: {channels: 3, size: 32}", "the spec says 3 x 32 x 32"),
        ("encoder: {use: tiny-codec, checkpoint: codec}", "encoder: {use: tiny-codec}", "nowhere to write"),
    ],
)
def test_what_a_spec_lacks_for_training_is_named(
    workshop: Callable[..., Path], before: str, after: str, message: str
) -> None:
    spec = workshop()
    text = spec.read_text()
    assert before in text
    spec.write_text(text.replace(before, after))
    with pytest.raises(SpecError) as caught:
        run("encoder", spec)
    assert message in str(caught.value)


def test_settings_are_read_without_torch() -> None:
    code = "import sys, ldm_registry.training.settings as s; s.TrainSpec(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_setting_is_described() -> None:
    from ldm_registry.training.settings import CodecTraining, DenoiserTraining, TrainSpec

    for block in (CodecTraining, DenoiserTraining, TrainSpec):
        assert [name for name, field in block.model_fields.items() if not field.description] == []
