"""Checkpoints of the toy plugin with everything that a publication looks at, and the plugin as if it were installed."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
import toy_plugin
from PIL import Image
from toy_plugin import CodecConfig, DenoiserConfig, ToyDecoder, ToyDenoiser, ToyEncoder

from ldm_registry.build import build_schedule, fresh
from ldm_registry.contracts import Contract, DenoisingError, SelfTest
from ldm_registry.data import read_images, to_unit
from ldm_registry.digests import sha256
from ldm_registry.golden import golden_codec, golden_denoiser
from ldm_registry.interfaces import Trained
from ldm_registry.registry import Registry
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.self_test import (
    denoising_errors,
    encoded,
    latent_statistics,
    mean_psnr_db,
    round_trip,
)
from ldm_registry.vocabulary import Kind, Prediction
from ldm_registry.weights import WEIGHTS, save_checkpoint

REGISTRY = Registry([toy_plugin])
SIZE = 16
CPU = torch.device("cpu")
CARD = "---\nlicense: mit\n---\n# Toy codec\n\nWritten by hand.\n"


@dataclass(frozen=True)
class Folders:
    """What can be published.

    Attributes:
        codec: A checkpoint of both halves.
        denoiser: One that was made for its latents.
        images: What they were measured with.
        spec: A pipeline of both.
        metadata: To be put on the path, so that the plugin is found.
    """

    codec: Path
    denoiser: Path
    images: Path
    spec: Path
    metadata: Path


def toy_folders(folder: Path) -> Folders:
    """Write them all."""
    images = write_images(folder / "toys-val.tar", 6)
    made = Folders(
        folder / "toy-codec", folder / "toy-denoiser", images, folder / "toy.yaml", folder / "metadata"
    )
    write_codec(made.codec, images)
    write_denoiser(made.denoiser, made.codec, images)
    made.spec.write_text(
        f"version: 1\nimage: {{channels: 3, size: {SIZE}}}\n"
        "encoder: {use: toy-codec, checkpoint: toy-codec}\ndenoiser: {use: toy-denoiser, checkpoint: toy-denoiser}\n"
        "scheduler: {use: toy-scheduler, config: {steps: 3}}\ndecoder: {use: toy-codec, checkpoint: toy-codec}\n"
        "condition: {class_label: [0, 2]}\ndata: {images: toys-val.tar}\n"
    )
    info = made.metadata / "ldm_toy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ldm-toy\nVersion: 0.1\n")
    points = [
        f"{component.kind}.{component.name} = toy_plugin" for component in toy_plugin.register_components()
    ]
    (info / "entry_points.txt").write_text("\n".join(["[ldm_registry]", *points, ""]))
    return made


def write_images(path: Path, count: int) -> Path:
    """A set of smooth random pictures with labels 0 to 2."""
    generator = torch.Generator().manual_seed(0)
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            coarse = torch.rand(1, 3, 3, 3, generator=generator)
            pixels = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")[0]
            picture = io.BytesIO()
            Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy()).save(picture, "PNG")
            label = json.dumps({"label": index % 3}).encode()
            for name, content in ((f"{index}.png", picture.getvalue()), (f"{index}.json", label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_codec(folder: Path, images: Path) -> None:
    encoder = fresh(ToyEncoder, (CodecConfig(),), 1)
    decoder = fresh(ToyDecoder, (CodecConfig(),), 2)
    assert isinstance(encoder, ToyEncoder)
    assert isinstance(decoder, ToyDecoder)
    held = read_images(images)
    pixels = to_unit(held.images)
    contract = Contract(
        components={Kind.ENCODER: "toy-codec", Kind.DECODER: "toy-codec"},
        value_range=(-1.0, 1.0),
        image_channels=3,
        latent_channels=4,
        stride=4,
        latent_measured=latent_statistics(encoded(encoder, held.images, CPU)),
        training={"trained_on": "toys-train.tar", "steps": 0},
        self_test=SelfTest(
            data=f"{images.name} sha256:{sha256(images)}",
            round_trip_psnr_db=mean_psnr_db(round_trip(encoder, decoder, pixels, CPU), pixels),
            golden_outputs=golden_codec(encoder, decoder, (SIZE, SIZE)),
        ),
    )
    save_checkpoint([encoder, decoder], folder, contract=contract, card=CARD)


def write_denoiser(folder: Path, codec: Path, images: Path) -> None:
    encoder = fresh(ToyEncoder, (CodecConfig(),), 1)
    assert isinstance(encoder, ToyEncoder)
    schedule = build_schedule("toy_schedule", {}, REGISTRY)
    denoiser = fresh(ToyDenoiser, (DenoiserConfig(), Trained(Prediction.V, schedule)), 3)
    assert isinstance(denoiser, ToyDenoiser)
    held = read_images(images)
    latents = encoded(encoder, held.images, CPU)
    errors: tuple[DenoisingError, ...] = denoising_errors(
        denoiser, latents, {"class_label": held.labels}, GaussianFit.of(latents), CPU
    )
    contract = Contract(
        components={Kind.DENOISER: "toy-denoiser"},
        latent_channels=4,
        prediction=Prediction.V,
        schedule={"name": "toy_schedule"},
        classes=3,
        null_class=3,
        latent_sizes=((SIZE // 4, SIZE // 4),),
        codec_sha256=sha256(codec / WEIGHTS),
        self_test=SelfTest(
            data=f"{images.name} sha256:{sha256(images)}",
            denoising_error=errors,
            golden_outputs=golden_denoiser(denoiser, (4, SIZE // 4, SIZE // 4)),
        ),
    )
    save_checkpoint([denoiser], folder, contract=contract, card="")
