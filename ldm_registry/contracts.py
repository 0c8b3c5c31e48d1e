"""What a component promises to the parts beside it, and whether four parts keep their promises to one another.

Pure: reads configs, contracts and declared attributes; touches no weights and no device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ldm_registry.errors import ContractError, did_you_mean
from ldm_registry.interfaces import Conditioner, Conditioning, Decoder, Denoiser, Encoder, Scheduler
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import STAGES, DType, Kind, Prediction

LOG_SNR_TOLERANCE_NATS = 0.05
"""How far a sampler may leave the trained range of log-SNR before it counts as leaving it."""

Scalar = str | int | float | bool | None


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileDigest(_Data):
    """Size and digest of one file of a checkpoint."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal.")
    size: int = Field(ge=0, description="Bytes.")


class LatentStatistics(_Data):
    """Mean and standard deviation of the latents, per channel, in denoiser space (ideal: 0 and 1)."""

    mean: tuple[float, ...] = Field(description="Per channel.")
    std: tuple[float, ...] = Field(description="Per channel.")
    images: int = Field(ge=1, description="How many images they were measured on.")


class DenoisingError(_Data):
    """Mean squared error of the clean estimate at one noise level, in denoiser space."""

    log_snr: float = Field(description="Nats.")
    x0_mse: float = Field(ge=0, description="Of this denoiser.")
    gaussian_x0_mse: float = Field(ge=0, description="Of the Gaussian-optimal (Wiener) denoiser.")


class GoldenOutput(_Data):
    """What a part put out for an input that follows from these fields alone (`ldm_registry.golden`)."""

    kind: Kind = Field(description="Encoder, denoiser or decoder.")
    shape: tuple[int, int, int] = Field(
        description="Of the input, without the batch: channels, height, width."
    )
    seed: int = Field(ge=0, description="Of the input.")
    log_snr: float | None = Field(None, description="Noise level of the input, nats, for a denoiser.")
    label: int | None = Field(None, ge=0, description="Class label, for a denoiser that takes one.")
    values: tuple[float, ...] = Field((), max_length=4096, description="From all over the output.")


class SelfTest(_Data):
    """What was measured when the checkpoint was saved, so that a later measurement has something to match."""

    data: str | None = Field(None, description="Name and SHA-256 of the image set.")
    round_trip_psnr_db: float | None = Field(None, description="Mean over images, peak-to-peak range.")
    perplexity: float | None = Field(None, description="Of the codebook: exp of the entropy of code usage.")
    dead_codes: int | None = Field(None, description="Codes that no latent of the set uses.")
    denoising_error: tuple[DenoisingError, ...] = Field((), description="Over log-SNR.")
    golden_sha256: str | None = Field(None, description="Digest of golden outputs rounded to 3 decimals.")
    golden: tuple[float, ...] = Field((), description="The first values of the golden output.")
    golden_outputs: tuple[GoldenOutput, ...] = Field((), description="For inputs that need no data.")


class Contract(_Data):
    """`contract.json`: what a component promises, and what was measured when it was saved."""

    version: int = Field(1, ge=1, le=1, description="Format of this file.")
    components: Mapping[Kind, str] = Field(
        description="Registered name for each kind that the folder serves."
    )
    value_range: tuple[float, float] | None = Field(None, description="Of the pixels, for a codec.")
    image_channels: int | None = Field(None, ge=1, description="Channels of the image, for a codec.")
    latent_channels: int | None = Field(None, ge=1, description="Channels of the latent.")
    stride: int | None = Field(None, ge=1, description="Pixels per latent cell along one side, for a codec.")
    latent_declared: LatentStatistics | None = Field(None, description="On the training set.")
    latent_measured: LatentStatistics | None = Field(None, description="On the validation set.")
    prediction: Prediction | None = Field(None, description="What the denoiser's network puts out.")
    schedule: Mapping[str, Any] | None = Field(None, description="Training schedule: name and its config.")
    time_scale: float | None = Field(None, description="Network time per unit of schedule time.")
    classes: int | None = Field(None, ge=1, description="Number of class labels.")
    null_class: int | None = Field(None, ge=0, description="The label that means no condition.")
    latent_sizes: tuple[tuple[int, int], ...] = Field((), description="(H, W) that it was trained on.")
    codec_sha256: str | None = Field(
        None, description="Weights of the codec whose latents it was trained on."
    )
    safe_dtypes: tuple[DType, ...] = Field(tuple(DType), description="Types that it was found to run in.")
    defaults: tuple[str, ...] = Field(
        (), description="Values that were not stated but taken from class defaults."
    )
    training: Mapping[str, Scalar] = Field({}, description="How it came about: steps, minutes, device.")
    self_test: SelfTest | None = Field(None, description="What was measured when it was saved.")
    files: Mapping[str, FileDigest] = Field({}, description="Every other file of the folder.")


@dataclass(frozen=True, slots=True)
class Parts:
    """The four stages of a pipeline, possibly still on the meta device, with what is known of each.

    Attributes:
        scheduler: None where there is no noise schedule to build it on.
        contracts: By stage; a stage without a contract is absent.
        conditioners: By label.
    """

    encoder: Encoder
    denoiser: Denoiser
    scheduler: Scheduler | None
    decoder: Decoder
    contracts: Mapping[Kind, Contract] = field(default_factory=dict)
    conditioners: Mapping[str, Conditioner] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a contract check found.

    Attributes:
        errors: The pipeline cannot run, or cannot run as it was meant to; assembly is refused.
        warnings: It runs, but the parts were not made for one another.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def check(spec: PipelineSpec, parts: Parts) -> Findings:
    """Every mismatch between four parts and the spec that names them, at once.

    Args:
        spec: Where they come from.
        parts: The stages.
    """
    errors = [
        *_latents(spec, parts),
        *_image(spec, parts),
        *_noise(spec, parts),
        *_conditions(spec, parts),
        *_dtypes(spec, parts),
    ]
    return Findings(tuple(errors), (*_origins(spec, parts), *_unconditioned(spec, parts)))


def _latents(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    encoder, decoder = parts.encoder.latent_space, parts.decoder.latent_space
    encoder_name, decoder_name = f"encoder {spec.encoder.use!r}", f"decoder {spec.decoder.use!r}"
    if encoder.channels != decoder.channels:
        yield f"{decoder_name} expects {decoder.channels} latent channels; {encoder_name} produces {encoder.channels}"
    if encoder.stride != decoder.stride:
        yield f"{decoder_name} has stride {decoder.stride}; {encoder_name} has stride {encoder.stride}"
    channels = parts.denoiser.latent_space.channels
    for name, codec in {encoder_name: encoder, decoder_name: decoder}.items():
        if channels != codec.channels:
            yield f"denoiser {spec.denoiser.use!r} expects {channels} latent channels; {name} has {codec.channels}"


def _image(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    for stage, part in ((Kind.ENCODER, parts.encoder), (Kind.DECODER, parts.decoder)):
        if part.image_channels != spec.image.channels:
            use = getattr(spec, stage).use
            yield f"{stage} {use!r} works on {part.image_channels} image channels; the spec says {spec.image.channels}"
    stride, multiple = parts.encoder.latent_space.stride, parts.denoiser.size_multiple
    height, width = spec.image.height, spec.image.width
    wrong = sorted({side for side in (height, width) if side % (stride * multiple)})
    for side in wrong:
        yield (
            f"image size {side} is not a multiple of {stride * multiple} "
            f"(encoder stride {stride} x denoiser size multiple {multiple})"
        )
    fixed, latent = parts.denoiser.latent_size, (height // stride, width // stride)
    if fixed is not None and not wrong and tuple(fixed) != latent:
        yield (
            f"denoiser {spec.denoiser.use!r} works on latents of {fixed[0]} x {fixed[1]}; an image of "
            f"{height} x {width} has {latent[0]} x {latent[1]}"
        )


def _noise(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    if parts.scheduler is None:
        return
    try:
        levels = parts.scheduler.levels()
    except ContractError as error:
        yield "; ".join([error.summary, *error.problems, error.hint or ""]).removesuffix("; ")
        return
    first = levels[0]
    if parts.denoiser.prediction is Prediction.EPSILON and float(first.alpha) == 0.0:
        yield (
            f"scheduler {spec.scheduler.use!r} starts at a level without signal (alpha = 0), where the epsilon "
            f"prediction of denoiser {spec.denoiser.use!r} cannot be converted to x0"
        )
    trained = parts.denoiser.training_schedule
    if trained is None:
        return
    # The last level is where sampling ends; no network is asked there.
    asked = levels.log_snr[:-1]
    ends = sorted(float(trained.level(asked.new_tensor(time)).log_snr) for time in trained.time_range)
    low, high = float(asked.min()), float(asked.max())
    if low < ends[0] - LOG_SNR_TOLERANCE_NATS or high > ends[1] + LOG_SNR_TOLERANCE_NATS:
        yield (
            f"scheduler {spec.scheduler.use!r} visits log-SNR {low:.2f} to {high:.2f}; denoiser "
            f"{spec.denoiser.use!r} was trained on {ends[0]:.2f} to {ends[1]:.2f}"
        )


def _conditions(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    denoiser, accepted = f"denoiser {spec.denoiser.use!r}", parts.denoiser.conditioning
    read = {name for conditioner in parts.conditioners.values() for name in conditioner.inputs}
    for name, values in spec.condition.items():
        if name in read:
            continue
        if name not in accepted:
            known = [*accepted, *read]
            yield f"{denoiser} takes no condition {name!r}; {did_you_mean(name, known) if known else 'it takes none'}"
            continue
        given = accepted[name]
        if given.classes is not None:
            allowed = {*range(given.classes), given.null}
            wrong = [value for value in values if value not in allowed]
            if wrong:
                yield f"condition {name} has {wrong}; {denoiser} knows classes 0 to {given.classes - 1}"
    yield from (
        f"guidance has a negative {name!r}, which no conditioner reads"
        for name in spec.guidance.negative
        if name not in read
    )
    if spec.guidance.scale != 1.0:
        if not spec.condition and not read:
            yield f"guidance scale {spec.guidance.scale:g} needs a condition; the spec gives none"
        lacking = [name for name in spec.condition if name in accepted and accepted[name].null is None]
        if lacking:
            yield (
                f"guidance scale {spec.guidance.scale:g} needs a null value for {', '.join(lacking)}; {denoiser} "
                "was trained without one"
            )
    yield from _conditioners(spec, parts)


def _conditioners(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    """Whether what the conditioners give is what the denoiser takes."""
    denoiser, accepted = f"denoiser {spec.denoiser.use!r}", parts.denoiser.conditioning
    given: dict[str, list[Conditioning]] = {}
    for label in sorted(parts.conditioners):
        for name, output in parts.conditioners[label].outputs.items():
            if name in accepted:
                given.setdefault(name, []).append(output)
            else:
                use = parts.conditioners[label].name
                instead = f"it takes {', '.join(accepted) or 'nothing'}"
                yield f"conditioner {label} ({use}) gives {name!r}, which {denoiser} does not take; {instead}"
    for name, outputs in given.items():
        widths = [output.shape[-1] if output.shape else None for output in outputs]
        wanted = accepted[name].shape[-1] if accepted[name].shape else None
        known = [width for width in widths if width is not None]
        if wanted is not None and len(known) == len(widths) and sum(known) != wanted:
            sums = " + ".join(map(str, known))
            yield f"{denoiser} takes {name} of width {wanted}; the conditioners give {sums}"


def _unconditioned(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    given = {name for conditioner in parts.conditioners.values() for name in conditioner.outputs}
    for name, accepted in parts.denoiser.conditioning.items():
        if (
            name not in given
            and name not in spec.condition
            and accepted.null is None
            and not accepted.optional
        ):
            yield f"denoiser {spec.denoiser.use!r} needs {name}; the spec gives none, so each run has to"


def _dtypes(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    for stage in STAGES:
        dtype, contract = getattr(spec, stage).dtype, parts.contracts.get(stage)
        if dtype is not None and contract is not None and dtype not in contract.safe_dtypes:
            safe = ", ".join(contract.safe_dtypes)
            yield f"{stage} {getattr(spec, stage).use!r} is not safe in {dtype}; its contract allows {safe}"


def _origins(spec: PipelineSpec, parts: Parts) -> Iterator[str]:
    denoiser = parts.contracts.get(Kind.DENOISER)
    if denoiser is None or denoiser.codec_sha256 is None:
        return
    for stage in (Kind.ENCODER, Kind.DECODER):
        digests = (
            {file.sha256 for file in parts.contracts[stage].files.values()}
            if stage in parts.contracts
            else set()
        )
        if denoiser.codec_sha256 not in digests:
            yield (
                f"denoiser {spec.denoiser.use!r} was trained on the latents of another codec than this "
                f"{stage} {getattr(spec, stage).use!r}: same shape, other meaning"
            )
    declared = parts.contracts[Kind.ENCODER].latent_measured if Kind.ENCODER in parts.contracts else None
    if declared is not None and not all(math.isclose(std, 1.0, abs_tol=0.25) for std in declared.std):
        yield f"encoder {spec.encoder.use!r} produces latents of std {declared.std}; a denoiser expects 1"
