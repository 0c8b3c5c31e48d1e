"""What a single file becomes: its parts, the small files beside them, and what is still missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ldm_registry.errors import CheckpointError, SpecError, did_you_mean
from ldm_registry.original.components import Part, dit_part, text_part, unet_part, vae_part
from ldm_registry.original.dit import POSITIONS, check_positions, plan_dit
from ldm_registry.original.families import (
    DIT_SCHEDULER,
    FAMILIES,
    PREDICTIONS,
    SCALINGS,
    Family,
    scheduler_config,
)
from ldm_registry.original.layout import Layout
from ldm_registry.original.ldm_yaml import LdmYaml
from ldm_registry.original.pieces import section
from ldm_registry.safetensors_header import TensorEntry
from ldm_registry.vocabulary import Prediction

SCALE = "scale_factor"
_TORCH_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller of `convert` states; see there."""

    family: str | None
    prediction: Prediction | None
    stated: LdmYaml | None
    sample_size: int | None
    heads: int | None
    ema: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """Everything that will be written.

    Attributes:
        family: Of the file.
        parts: Its components.
        documents: Small files by their path in the folder.
        missing: Parts that the pipeline needs and the file does not hold.
        notes: What was decided without the file saying so.
    """

    family: str
    parts: tuple[Part, ...]
    documents: Mapping[str, Mapping[str, Any]]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def drafted(path: Path, header: Mapping[str, TensorEntry], layout: Layout, wishes: Wishes) -> Draft:
    """What a file becomes.

    Args:
        path: The file.
        header: Of the file, checked.
        layout: Where its parts are.
        wishes: What the caller states.

    Raises:
        LdmError: As `convert`.
    """
    if layout.family == "vae":
        return _autoencoder(path, header, layout, wishes)
    if wishes.family not in (None, layout.family):
        raise SpecError(
            f"{path} is of family {layout.family}, not {wishes.family}", hint="leave the family to the file"
        )
    if layout.family == "dit":
        return _dit(path, header, wishes)
    return _pipeline(path, header, layout, wishes)


def _autoencoder(path: Path, header: Mapping[str, TensorEntry], layout: Layout, wishes: Wishes) -> Draft:
    if wishes.family is not None and wishes.family not in SCALINGS:
        raise SpecError(
            f"family {wishes.family!a} is not known", [did_you_mean(wishes.family, list(SCALINGS))]
        )
    if wishes.prediction is not None or wishes.ema:
        raise SpecError(f"{path} holds an autoencoder alone", ["prediction and ema are words for a denoiser"])
    prefix = layout.prefixes["vae"]
    part = vae_part(section(header, prefix), prefix, wishes.family, _scale(path, header), None, wishes.stated)
    return Draft(wishes.family or "vae", (part,), {}, (), ())


def _dit(path: Path, header: Mapping[str, TensorEntry], wishes: Wishes) -> Draft:
    problems = []
    if wishes.stated is not None:
        problems.append(f"{wishes.stated.path}: a YAML of latent-diffusion says nothing about a DiT")
    if wishes.prediction not in (None, Prediction.EPSILON):
        problems.append(f"prediction: got {wishes.prediction}, DiT predicts epsilon")
    if wishes.ema:
        problems.append("ema: the file holds one set of weights")
    if problems:
        raise SpecError(f"{path} holds a DiT", problems)
    plan = plan_dit(header)
    if POSITIONS in header:
        with safe_open(path, framework="pt", device="cpu") as file:
            check_positions(file.get_tensor(POSITIONS), plan)
    part = dit_part(plan, wishes.heads, wishes.sample_size)
    index = {
        "_class_name": "DiTPipeline",
        "scheduler": ["diffusers", DIT_SCHEDULER["_class_name"]],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    notes = (
        "_time_freq_shift is 0, as in the original code; diffusers' own network always has 1 and passes over the key",
        "scheduler: linear betas from 0.0001 to 0.02 in 1000 steps, as DiT was published",
    )
    return Draft("dit", (part,), _documents(index, DIT_SCHEDULER), ("vae",), notes)


def _pipeline(path: Path, header: Mapping[str, TensorEntry], layout: Layout, wishes: Wishes) -> Draft:
    family, stated = FAMILIES[layout.family], wishes.stated
    if stated is not None and not stated.unet:
        raise SpecError(f"{stated.path} describes an autoencoder alone; {path} is a pipeline")
    prediction = _prediction(path, header, layout.family, wishes)
    pixels = family.sizes[prediction]
    names = {part: section(header, prefix) for part, prefix in layout.prefixes.items()}
    parts = [
        unet_part(names["unet"], family, wishes.sample_size or pixels // 8, wishes.heads, stated, wishes.ema)
    ]
    if "vae" in names:
        scale = _scale(path, header) if stated is None or stated.measured_scale else None
        if stated is not None and stated.measured_scale and scale is None:
            raise SpecError(
                f"{stated.path} has scale_by_std, so that the scale of the latents is in the weights",
                [f"{path} holds no {SCALE}"],
            )
        own = layout.family if scale is None else None
        prefix = layout.prefixes["vae"]
        parts.append(vae_part(names["vae"], prefix, own, scale, pixels, stated))
    for folder in family.text.keys() & names.keys():
        dtype = _TORCH_TYPES.get(next(iter(names[folder].values())).dtype, "float32")
        parts.append(text_part(names[folder], folder, family.text[folder], dtype, stated))
    scheduler = scheduler_config(layout.family, prediction, zero_snr="ztsnr" in header)
    if stated is not None and stated.scheduler:
        keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
        scheduler.update({key: stated.scheduler[key] for key in keys})
    index = _index(family, scheduler)
    wanted = ("unet", "vae", *family.text, *(part.tokenizer for part in family.text.values()))
    held = {part.folder for part in parts}
    missing = tuple(name for name in wanted if name not in held)
    return Draft(
        layout.family,
        tuple(sorted(parts, key=lambda part: wanted.index(part.folder))),
        _documents(index, scheduler),
        missing,
        _notes(family, prediction, scheduler, missing),
    )


def _notes(
    family: Family, prediction: Prediction, scheduler: Mapping[str, Any], missing: tuple[str, ...]
) -> tuple[str, ...]:
    tokenizers = [name for name in missing if name.startswith("tokenizer")]
    absent = [name for name in missing if name not in tokenizers]
    notes = [
        f"prediction is {PREDICTIONS[prediction]}, scheduler {scheduler['_class_name']}, "
        f"images of {family.sizes[prediction]} pixels",
        f"a single file holds no tokenizer: {' and '.join(tokenizers)} come from elsewhere",
    ]
    if absent:
        notes.append(f"the file holds no {', no '.join(absent)}")
    return tuple(notes)


def _prediction(path: Path, header: Mapping[str, TensorEntry], family: str, wishes: Wishes) -> Prediction:
    """What the denoiser puts out: as stated, by argument or YAML, or by a marker in the file."""
    said = {
        "the argument": wishes.prediction,
        "the YAML": wishes.stated.prediction if wishes.stated else None,
        "the tensor v_pred": Prediction.V if "v_pred" in header else None,
    }
    stated = {who: prediction for who, prediction in said.items() if prediction is not None}
    if len(set(stated.values())) > 1:
        raise SpecError(
            f"{path}: it is contradictory what the denoiser puts out",
            [f"{who} says {prediction}" for who, prediction in stated.items()],
        )
    choices = FAMILIES[family].sizes
    if not stated:
        if family != "sd2":
            return Prediction.EPSILON
        raise SpecError(
            f"{path}: Stable Diffusion 2 comes in two kinds, which its weights do not tell apart",
            ["epsilon: the base model, for 512 pixels", "v: the model for 768 pixels"],
            hint="state the prediction, or give the YAML",
        )
    prediction = next(iter(stated.values()))
    if prediction not in choices:
        raise SpecError(
            f"{path}: a denoiser that puts out {prediction} is not built for family {family}",
            [did_you_mean(prediction, [str(choice) for choice in choices])],
        )
    return prediction


def _scale(path: Path, header: Mapping[str, TensorEntry]) -> float | None:
    """The scale of the latents as training measured it; None where the file has none."""
    if SCALE not in header:
        return None
    if header[SCALE].shape not in ((), (1,)) or header[SCALE].dtype not in _TORCH_TYPES:
        raise CheckpointError(f"{path}: {SCALE} is {header[SCALE]}, expected one floating-point number")
    with safe_open(path, framework="pt", device="cpu") as file:
        value = float(file.get_tensor(SCALE).double())
    if not (math.isfinite(value) and value > 0):
        raise CheckpointError(f"{path}: {SCALE} is {value}, expected a finite number above 0")
    return value


def _index(family: Family, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = {}
    for folder, part in family.text.items():
        name = "CLIPTextModelWithProjection" if part.projects else "CLIPTextModel"
        text[folder] = ["transformers", name]
        text[part.tokenizer] = ["transformers", "CLIPTokenizer"]
    optional = {} if family.pipeline.endswith("XLPipeline") else {"safety_checker": [None, None]}
    return {
        "_class_name": family.pipeline,
        "feature_extractor": [None, None],
        **family.settings,
        **optional,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        **text,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _documents(index: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"scheduler/scheduler_config.json": scheduler, "model_index.json": index}
