"""The parts of a spec as a training needs them: fresh, on the CPU, in float32, ready for gradients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ldm_registry.build import build, fresh, promised_training
from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import Component, Decoder, Denoiser, Encoder
from ldm_registry.registry import Registry
from ldm_registry.spec import DenoiserSpec, PipelineSpec, StageSpec
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import CONFIG, load_weights, parse_config, read_config, read_contract


def codec_of(
    spec: PipelineSpec, registry: Registry, seed: int, earlier: Mapping[str, Any] | None = None
) -> tuple[Encoder, Decoder]:
    """Both halves of the codec with random weights.

    The config is the checkpoint's, where there is one already, with the encoder's `config:` block over it; a
    codec has one config, so the decoder's block may say the same or nothing.

    Args:
        spec: The pipeline.
        registry: Where its parts come from.
        seed: Of the weights.
        earlier: The config that a training which is to be resumed began with, in place of the checkpoint's.

    Raises:
        SpecError: The two halves are told different things.
    """
    if spec.encoder.use != spec.decoder.use:
        raise SpecError(
            f"a codec trains as one: got encoder {spec.encoder.use!r} and decoder {spec.decoder.use!r}",
            hint="name the same codec for both",
        )
    halves = [registry.get(kind, getattr(spec, kind).use) for kind in (Kind.ENCODER, Kind.DECODER)]
    stated = {**spec.decoder.config, **spec.encoder.config}
    differing = [
        f"{key}: encoder {stated[key]!r}, decoder {value!r}"
        for key, value in spec.decoder.config.items()
        if stated[key] != value
    ]
    if differing:
        raise SpecError(
            f"codec {spec.encoder.use!r} has two configs", differing, hint="leave the decoder's out"
        )
    values = {**(_earlier_config(spec.encoder) if earlier is None else earlier), **stated}
    config = parse_config(halves[0], values, f"codec {spec.encoder.use!r}")
    encoder, decoder = (fresh(half, (config,), seed + index) for index, half in enumerate(halves))
    return cast(Encoder, encoder), cast(Decoder, decoder)


def denoiser_of(
    spec: PipelineSpec, registry: Registry, seed: int, earlier: Mapping[str, Any] | None = None
) -> Denoiser:
    """The denoiser with random weights; config and `trained:` come from its checkpoint where the spec is silent.

    Arguments and errors as for `codec_of`.
    """
    folder = _folder(spec.denoiser)
    contract = read_contract(folder) if folder is not None and folder.is_dir() else None
    trained = spec.denoiser.trained or promised_training(contract)
    config = {**(_earlier_config(spec.denoiser) if earlier is None else earlier), **spec.denoiser.config}
    stage = DenoiserSpec.model_validate({"use": spec.denoiser.use, "config": config, "trained": trained})
    built = build(Kind.DENOISER, stage, registry)
    return cast(Denoiser, fresh(type(built.component), built.arguments, seed))


def trained_encoder(spec: PipelineSpec, registry: Registry) -> Encoder:
    """The encoder from its checkpoint, for making latents.

    Raises:
        ContractError: It has weights and no checkpoint.
    """
    built = build(Kind.ENCODER, spec.encoder, registry)
    lacking = built.lacks_weights()
    if lacking is not None:
        raise ContractError("a denoiser trains on the latents of a trained encoder", [lacking])
    return cast(Encoder, built.materialise(spec.encoder, init_seed=None)).float()


def initialise(parts: list[Component], folder: str) -> None:
    """Take the weights of a checkpoint as the start.

    Args:
        parts: Changed in place; they stay float32 and trainable.
        folder: The checkpoint.
    """
    for part in parts:
        load_weights(part, Path(folder))
        part.to(dtype=torch.float32).requires_grad_(True)


def _earlier_config(stage: StageSpec | DenoiserSpec) -> dict[str, Any]:
    folder = _folder(stage)
    if folder is None or not (folder / CONFIG).is_file():
        return {}
    return {
        key: value for key, value in read_config(folder).items() if key not in ("_class_name", "_component")
    }


def _folder(stage: StageSpec | DenoiserSpec) -> Path | None:
    return Path(stage.checkpoint) if stage.checkpoint and "://" not in stage.checkpoint else None
