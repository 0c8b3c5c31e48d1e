"""`ldm train`: from a spec to a checkpoint with its contract, its self-test and its card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from ldm_registry.data import ImageSet, read_images
from ldm_registry.digests import sha256
from ldm_registry.errors import SpecError
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec
from ldm_registry.training.codec_stage import codec_stage
from ldm_registry.training.denoiser_stage import denoiser_stage
from ldm_registry.training.job import Job
from ldm_registry.training.processes import own_device
from ldm_registry.training.progress import Progress
from ldm_registry.training.settings import CodecTraining, DenoiserTraining
from ldm_registry.travel.in_specs import located

SPECS = "specs"


def train(
    stage: Literal["encoder", "denoiser"],
    spec: PipelineSpec,
    *,
    device: str | None = None,
    registry: Registry | None = None,
    output: Path | None = None,
    resume: bool = True,
) -> Iterator[Progress]:
    """Train one stage of a spec, or fit it where it is computed from data; the codec trains as one.

    The training state lives in `.training` inside the checkpoint folder. SIGINT, SIGTERM and the `minutes` of
    the settings end the run after a whole step, with a complete checkpoint; the next call goes on from there.

    Args:
        stage: "encoder" (both halves of the codec) or "denoiser".
        spec: The pipeline, with `data:` and, for what is trained by gradient, a `train:` block.
        device: To train on; None takes the stage's own, else the CPU.
        registry: Where the parts come from; None discovers what is installed.
        output: The checkpoint folder; None takes the one that the stage names.
        resume: Go on from an earlier state, if there is one; False starts afresh.

    Yields:
        At most one report a second; the last one names the checkpoint.

    Raises:
        SpecError: The spec lacks what the training needs, or the training diverged.
        LdmError: As `assemble` and `read_images`.
    """
    if stage not in ("encoder", "denoiser"):
        raise SpecError(f"cannot train {stage!r}; choose encoder (the whole codec) or denoiser")
    part = getattr(spec, stage)
    folder = output or _named_folder(stage, part.checkpoint)
    spec = located(spec)
    training_images, validation_images = _image_sets(spec)
    job = Job(
        spec=spec,
        registry=registry or Registry.discover(),
        device=own_device(torch.device(device or part.device or "cpu")),
        folder=folder,
        resume=resume,
        images=_checked(training_images, spec),
        validation=_checked(validation_images, spec),
        dataset=training_images.name,
        digest=sha256(training_images),
        validation_data=f"{validation_images.name} sha256:{sha256(validation_images)}",
        command=f"ldm train {stage} {_spec_name(spec)}",
    )
    settings: CodecTraining | DenoiserTraining | None = None
    if spec.train is not None:
        settings = spec.train.codec if stage == "encoder" else spec.train.denoiser
    threads = torch.get_num_threads()
    if settings is not None and settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        for progress in codec_stage(job) if stage == "encoder" else denoiser_stage(job):
            yield progress if progress.stopped is None else replace(progress, checkpoint=folder)
    finally:
        torch.set_num_threads(threads)


def _named_folder(stage: str, checkpoint: Any) -> Path:
    if not checkpoint or "://" in str(checkpoint):
        raise SpecError(
            f"the training has nowhere to write: {stage} has checkpoint {checkpoint!r}",
            hint="give the stage a local `checkpoint:` folder, or say where with --output",
        )
    return Path(checkpoint)


def _image_sets(spec: PipelineSpec) -> tuple[Path, Path]:
    train: str | Path | None = spec.train.images if spec.train is not None else None
    if train is None and spec.data is not None:
        train = spec.data.train
    if train is None or spec.data is None:
        raise SpecError(
            "the spec names no images to train on",
            hint="add `data: {images: VALIDATION.tar, train: TRAINING.tar}`",
        )
    return Path(train), Path(spec.data.images)


def _checked(path: Path, spec: PipelineSpec) -> ImageSet:
    images = read_images(path)
    got, expected = tuple(images.images.shape[1:]), (spec.image.channels, spec.image.height, spec.image.width)
    if got != expected:
        raise SpecError(
            f"{path} holds images of {got[0]} x {got[1]} x {got[2]}; the spec says {expected[0]} x {expected[1]} x "
            f"{expected[2]} (channels x height x width)"
        )
    return images


def _spec_name(spec: PipelineSpec) -> str:
    """The spec as somebody else would name it: from the `specs` folder down, or the file alone."""
    if spec.source is None:
        return "SPEC"
    parts = spec.source.parts
    return "/".join(parts[parts.index(SPECS) :]) if SPECS in parts else spec.source.name
