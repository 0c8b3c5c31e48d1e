"""The denoiser's training as a whole: encode, build, train or fit, measure, save."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ldm_registry.contracts import Contract, Scalar, SelfTest
from ldm_registry.digests import sha256
from ldm_registry.errors import ContractError, SpecError
from ldm_registry.golden import golden_denoiser
from ldm_registry.interfaces import Denoiser, Encoder, NoiseLevel, Trained, randn
from ldm_registry.trainable import Fittable
from ldm_registry.training import self_test
from ldm_registry.training.card import machine, model_card, training_facts
from ldm_registry.training.construct import denoiser_of, initialise, trained_encoder
from ldm_registry.training.denoiser import LABEL, condition_of, train_denoiser
from ldm_registry.training.gaussian import LARGEST_DENSE, GaussianFit
from ldm_registry.training.job import Job
from ldm_registry.training.latents import Latents
from ldm_registry.training.processes import is_first_process
from ldm_registry.training.progress import Progress
from ldm_registry.training.rebuild import SAVED_DTYPE, round_weights
from ldm_registry.training.seeds import seeded
from ldm_registry.training.settings import DenoiserTraining
from ldm_registry.training.state import read_notes
from ldm_registry.vocabulary import Kind, Scaling
from ldm_registry.weights import WEIGHTS, save_checkpoint

GOLDEN_SAMPLES = 2


def denoiser_stage(job: Job) -> Iterator[Progress]:
    """Train the denoiser of a job, or fit it where it is computed from latents, and write its checkpoint.

    Yields:
        Reports; the last one carries the figures of the self-test.

    Raises:
        SpecError: The spec has no `train: denoiser:` block, and the denoiser is not one to be fitted.
        ContractError: Encoder and denoiser do not fit.
    """
    stated = job.spec.train.denoiser if job.spec.train is not None else None
    settings = stated or DenoiserTraining()
    denoiser = denoiser_of(job.spec, job.registry, settings.seed, job.earlier_config())
    if stated is None and not isinstance(denoiser, Fittable):
        raise SpecError(
            "the spec does not say how to train the denoiser", hint="add a `train: {denoiser: {...}}` block"
        )
    encoder = trained_encoder(job.spec, job.registry)
    _check_channels(encoder, denoiser)
    encoder.to(job.device)
    latents = Latents.of(encoder, job.images.images, job.images.labels, settings, job.device)
    unflipped = settings.model_copy(update={"flip": False, "latents": "mode"})
    validation = Latents.of(encoder, job.validation.images, job.validation.labels, unflipped, job.device)
    if isinstance(denoiser, Fittable):
        yield _fit(job, denoiser, latents, validation)
        return
    gaussian = _gaussian(latents)
    if settings.initialise_from is not None:
        initialise([denoiser], settings.initialise_from)
    last: Progress | None = None
    for last in train_denoiser(
        denoiser,
        settings,
        latents,
        validation=validation,
        gaussian=gaussian,
        folder=job.state_folder,
        identity=_identity(job, denoiser),
        device=job.device,
        resume=job.resume,
    ):
        if last.stopped is None:
            yield last
    assert last is not None
    if not is_first_process():
        yield last
        return
    round_weights(denoiser)
    test = _measured(job, denoiser, validation, gaussian)
    facts = training_facts(settings, last.step, last.elapsed_s, job.device, job.dataset, len(job.images))
    _save(job, denoiser, latents, test, facts, settings)
    yield replace(last, validation={"ratio_to_gaussian": self_test.gaussian_ratio(test.denoising_error)})


def _gaussian(latents: Latents) -> GaussianFit:
    """The yardstick: with the mirrored latents where the covariance itself is decomposed.

    Above that the cost grows with the cube of the number of samples, and mirror images are left out.
    """
    dense = latents.values[0, 0].numel() <= LARGEST_DENSE
    return GaussianFit.of(latents.flat() if dense else latents.values[0].cpu())


def _fit(job: Job, denoiser: Denoiser, latents: Latents, validation: Latents) -> Progress:
    """Compute a denoiser from the latents instead of training it."""
    assert isinstance(denoiser, Fittable)
    started = time.monotonic()
    labels = latents.labels.repeat(len(latents.values))
    config = denoiser.fit(latents.flat(), condition_of(denoiser, labels, torch.device("cpu")))
    denoiser.config = config
    denoiser.to(job.device).eval()
    test = _measured(job, denoiser, validation, _gaussian(latents))
    facts: dict[str, Scalar] = {
        "trained_on": job.dataset,
        "images": len(job.images),
        "fitted_to": len(labels),
        "minutes": round((time.monotonic() - started) / 60.0, 1),
        "machine": machine(job.device),
    }
    _save(job, denoiser, latents, test, facts, None)
    return Progress(
        step=1,
        steps=1,
        elapsed_s=time.monotonic() - started,
        validation={"ratio_to_gaussian": self_test.gaussian_ratio(test.denoising_error)},
        stopped="finished",
    )


def _measured(job: Job, denoiser: Denoiser, validation: Latents, gaussian: GaussianFit) -> SelfTest:
    latents = validation.values[0].cpu()
    condition = condition_of(denoiser, validation.labels, torch.device("cpu"))
    errors = self_test.denoising_errors(denoiser, latents, condition, gaussian, job.device)
    level = NoiseLevel.at(torch.tensor(0.0, dtype=torch.float64), Scaling.VP)
    z = randn((GOLDEN_SAMPLES, *latents.shape[1:]), seeded("golden")).to(job.device)
    few = {name: values[:GOLDEN_SAMPLES].to(job.device) for name, values in condition.items()}
    with torch.inference_mode():
        digest, golden = self_test.golden(denoiser(z, level, few).prediction)
    channels, height, width = latents.shape[1:]
    return SelfTest(
        data=job.validation_data,
        denoising_error=errors,
        golden_sha256=digest,
        golden=golden,
        golden_outputs=golden_denoiser(denoiser, (channels, height, width)),
    )


def _save(
    job: Job,
    denoiser: Denoiser,
    latents: Latents,
    test: SelfTest,
    facts: Mapping[str, Scalar],
    settings: DenoiserTraining | None,
) -> None:
    accepted = denoiser.conditioning.get(LABEL)
    schedule = denoiser.training_schedule
    trained = getattr(denoiser, "trained", None)
    described = None
    if schedule is not None:
        described = {"name": schedule.name, **schedule.config.model_dump(mode="json", by_alias=True)}
    height, width = latents.values.shape[-2:]
    contract = Contract(
        components={Kind.DENOISER: denoiser.name},
        latent_channels=denoiser.latent_space.channels,
        latent_declared=self_test.latent_statistics(latents.flat()),
        prediction=denoiser.prediction,
        schedule=described,
        time_scale=trained.time_scale if isinstance(trained, Trained) else None,
        classes=accepted.classes if accepted is not None else None,
        null_class=accepted.null if accepted is not None else None,
        latent_sizes=((height, width),),
        codec_sha256=_codec_digest(job),
        training=facts,
        self_test=test,
    )
    history = read_notes(job.state_folder)["history"] if settings is not None else []
    card = model_card(
        job.folder.name, contract, settings, command=job.command, history=history, dataset=job.dataset
    )
    save_checkpoint([denoiser], job.folder, contract=contract, card=card, dtype=SAVED_DTYPE)


def _identity(job: Job, denoiser: Denoiser) -> dict[str, Any]:
    schedule = denoiser.training_schedule
    return {
        "stage": "denoiser",
        "name": denoiser.name,
        "data": job.digest,
        "codec": _codec_digest(job),
        "config": denoiser.config.model_dump(mode="json", by_alias=True),
        "prediction": denoiser.prediction.value,
        "schedule": None if schedule is None else [schedule.name, schedule.config.model_dump(mode="json")],
    }


def _codec_digest(job: Job) -> str | None:
    checkpoint = job.spec.encoder.checkpoint
    path = Path(checkpoint) / WEIGHTS if checkpoint else None
    return sha256(path) if path is not None and path.is_file() else None


def _check_channels(encoder: Encoder, denoiser: Denoiser) -> None:
    got, expected = encoder.latent_space.channels, denoiser.latent_space.channels
    if got != expected:
        raise ContractError(
            f"denoiser {denoiser.name!r} expects {expected} latent channels; encoder {encoder.name!r} produces {got}"
        )
