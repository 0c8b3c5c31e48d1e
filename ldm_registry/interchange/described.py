"""The contract of a foreign checkpoint, derived from its config; what came from class defaults is listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ldm_registry.assembly import Plan
from ldm_registry.build import Built
from ldm_registry.contracts import Contract, FileDigest
from ldm_registry.digests import file_digest
from ldm_registry.foreign import SchedulerReading
from ldm_registry.interchange.pipeline_folder import PipelineFolder
from ldm_registry.interfaces import Decoder, Denoiser, Encoder
from ldm_registry.vocabulary import DType, Kind
from ldm_registry.weights import CONFIG, check_weights, defaulted


def described(
    source: PipelineFolder, plan: Plan, reading: SchedulerReading, variant: str | None
) -> dict[str, Contract]:
    """A contract for each folder of weights in a pipeline folder.

    Args:
        source: The folder.
        plan: Its parts, without memory.
        reading: Of its scheduler.
        variant: Of the weights.

    Returns:
        By folder name.

    Raises:
        LdmError: Weights are missing, or do not fit their config.
    """
    recipe = source.recipe
    network = plan.stages[Kind.DENOISER]
    contracts = {recipe.denoiser: _denoiser(network, reading, _digests([network], variant))}
    if recipe.codec is not None:
        halves = plan.stages[Kind.ENCODER], plan.stages[Kind.DECODER]
        contracts[recipe.codec] = _codec(*halves, _digests(halves, variant))
    for text in recipe.text:
        built = plan.conditioners[text.folder]
        contracts[text.folder] = Contract(
            components={Kind.CONDITIONER: built.component.name},
            defaults=defaulted(built.component.config),
            files=_digests([built], variant),
        )
    return contracts


def _denoiser(built: Built, reading: SchedulerReading, files: dict[str, FileDigest]) -> Contract:
    denoiser = cast(Denoiser, built.component)
    label = denoiser.conditioning.get("class_label")
    return Contract(
        components={Kind.DENOISER: denoiser.name},
        latent_channels=denoiser.latent_space.channels,
        prediction=reading.prediction,
        schedule=dict(reading.schedule),
        time_scale=reading.time_scale,
        classes=label.classes if label else None,
        null_class=label.null if label else None,
        latent_sizes=(denoiser.latent_size,) if denoiser.latent_size else (),
        defaults=(*defaulted(denoiser.config), *(f"scheduler.{line}" for line in reading.defaults)),
        files=files,
    )


def _codec(encoder: Built, decoder: Built, files: dict[str, FileDigest]) -> Contract:
    first, second = cast(Encoder, encoder.component), cast(Decoder, decoder.component)
    upcast = getattr(first.config, "force_upcast", False)
    return Contract(
        components={Kind.ENCODER: first.name, Kind.DECODER: second.name},
        value_range=(-1.0, 1.0),
        image_channels=first.image_channels,
        latent_channels=first.latent_space.channels,
        stride=first.latent_space.stride,
        safe_dtypes=tuple(dtype for dtype in DType if not (upcast and dtype is DType.FLOAT16)),
        defaults=defaulted(first.config),
        files=files,
    )


def _digests(parts: Sequence[Built], variant: str | None) -> dict[str, FileDigest]:
    """Of the files that the parts of one folder are made from, once their headers were found to fit."""
    folder = parts[0].folder
    assert folder is not None
    names = {CONFIG}
    for built in parts:
        names |= {path.name for path in check_weights(built.component, folder, variant).files}
    return {name: file_digest(folder / name) for name in sorted(names)}
