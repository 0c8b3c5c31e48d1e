"""The codec's training as a whole: build, train, measure, save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ldm_registry.contracts import Contract, LatentStatistics, SelfTest
from ldm_registry.data import to_unit
from ldm_registry.errors import SpecError
from ldm_registry.golden import golden_codec
from ldm_registry.interfaces import Decoder, Encoder
from ldm_registry.trainable import TrainableEncoder
from ldm_registry.training import self_test
from ldm_registry.training.card import model_card, training_facts
from ldm_registry.training.codec import train_codec
from ldm_registry.training.construct import codec_of, initialise
from ldm_registry.training.job import Job
from ldm_registry.training.processes import is_first_process
from ldm_registry.training.progress import Progress
from ldm_registry.training.rebuild import SAVED_DTYPE, rebuilt, round_weights
from ldm_registry.training.settings import CodecTraining
from ldm_registry.training.state import read_notes
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import save_checkpoint

CODEBOOK_IMAGES = 512
GOLDEN_IMAGES = 2


def codec_stage(job: Job) -> Iterator[Progress]:
    """Train the codec of a job and write its checkpoint.

    Yields:
        Reports; the last one carries the figures of the self-test.

    Raises:
        SpecError: The spec has no `train: codec:` block.
    """
    settings = job.spec.train.codec if job.spec.train is not None else None
    if settings is None:
        raise SpecError(
            "the spec does not say how to train the codec", hint="add a `train: {codec: {...}}` block"
        )
    encoder, decoder = codec_of(job.spec, job.registry, settings.seed, job.earlier_config())
    if settings.initialise_from is not None:
        initialise([encoder, decoder], settings.initialise_from)
    identity = {
        "stage": "codec",
        "name": encoder.name,
        "data": job.digest,
        "config": encoder.config.model_dump(mode="json", by_alias=True),
    }
    last: Progress | None = None
    for last in train_codec(
        encoder,
        decoder,
        settings,
        job.images.images,
        validation=job.validation.images,
        folder=job.state_folder,
        identity=identity,
        device=job.device,
        resume=job.resume,
    ):
        if last.stopped is None:
            yield last
    assert last is not None
    if not is_first_process():
        yield last
        return
    yield replace(last, validation=_save(job, settings, encoder, decoder, last))


def _save(
    job: Job, settings: CodecTraining, encoder: Encoder, decoder: Decoder, last: Progress
) -> dict[str, float]:
    """Normalise, measure what is stored, and store it; returns the main figures."""
    for half in (encoder, decoder):
        round_weights(half)
    trained_on = self_test.encoded(encoder, job.images.images, job.device)
    raw = self_test.latent_statistics(trained_on)
    config = cast(TrainableEncoder, encoder).with_statistics(raw.mean, raw.std)
    encoder, decoder = (rebuilt(half, config, job.device) for half in (encoder, decoder))  # type: ignore[assignment]  # same classes
    latents = self_test.encoded(encoder, job.validation.images, job.device)
    pixels = to_unit(job.validation.images)
    made = self_test.round_trip(encoder, decoder, pixels, job.device)
    usage = self_test.decoder_statistics(decoder, latents[:CODEBOOK_IMAGES], job.device)
    digest, golden = self_test.golden(latents[:GOLDEN_IMAGES])
    measured = self_test.latent_statistics(latents)
    test = SelfTest(
        data=job.validation_data,
        round_trip_psnr_db=self_test.mean_psnr_db(made, pixels),
        perplexity=usage.get("perplexity"),
        dead_codes=int(usage["dead_codes"]) if "dead_codes" in usage else None,
        golden_sha256=digest,
        golden=golden,
        golden_outputs=golden_codec(encoder, decoder, (pixels.shape[-2], pixels.shape[-1])),
    )
    contract = Contract(
        components={Kind.ENCODER: encoder.name, Kind.DECODER: decoder.name},
        value_range=(-1.0, 1.0),
        image_channels=encoder.image_channels,
        latent_channels=encoder.latent_space.channels,
        stride=encoder.latent_space.stride,
        latent_declared=self_test.latent_statistics(_normalised(trained_on, raw)),
        latent_measured=measured,
        training=training_facts(
            settings, last.step, last.elapsed_s, job.device, job.dataset, len(job.images)
        ),
        self_test=test,
    )
    history = read_notes(job.state_folder)["history"]
    card = model_card(
        job.folder.name, contract, settings, command=job.command, history=history, dataset=job.dataset
    )
    save_checkpoint([encoder, decoder], job.folder, contract=contract, card=card, dtype=SAVED_DTYPE)
    figures = {
        "psnr_db": test.round_trip_psnr_db,
        "perplexity": test.perplexity,
        "dead_codes": test.dead_codes,
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _normalised(latents: Tensor, raw: LatentStatistics) -> Tensor:
    """What the final config makes of latents [N, C, H, W] that were measured before it; cheaper than encoding again."""
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (raw.mean, raw.std))
    return (latents - mean) / std
