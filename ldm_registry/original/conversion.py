"""A single file in an original layout to a folder with the layout of diffusers."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ldm_registry.errors import CheckpointError, SpecError, did_you_mean
from ldm_registry.original.components import Part, dit_part, text_part, unet_part, vae_part
from ldm_registry.original.dit import POSITIONS, check_positions, plan_dit
from ldm_registry.original.families import (
    DIT_SCHEDULER,
    EMA_PREFIX,
    FAMILIES,
    PREDICTIONS,
    SCALINGS,
    Family,
    scheduler_config,
)
from ldm_registry.original.ignored import is_ignored
from ldm_registry.original.layout import Layout, detect
from ldm_registry.original.ldm_yaml import LdmYaml
from ldm_registry.original.opening import open_header
from ldm_registry.original.pieces import problems_of, section, size_of
from ldm_registry.original.streaming import write_pieces
from ldm_registry.safetensors_header import BITS, TensorEntry
from ldm_registry.vocabulary import Prediction
from ldm_registry.weights import CONFIG

MAX_GROWTH = 4
"""Only DiT repeats a tensor, and grows by an eighth; a file that would grow by more is no network of that kind."""
ALWAYS_ALLOWED_BYTES = 64 * 2**20
SCALE = "scale_factor"
_TORCH_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        folder: Of the pipeline, or of the autoencoder's parent.
        family: sd1, sd2, sdxl, sd3, flux (for an autoencoder) or dit.
        components: The component folders in it.
        missing: Parts that the pipeline needs and the file does not hold, such as tokenizers.
        notes: What was decided without the file saying so, and what was left out.
    """

    folder: Path
    family: str
    components: tuple[Path, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wishes:
    family: str | None
    prediction: Prediction | None
    stated: LdmYaml | None
    sample_size: int | None
    heads: int | None
    ema: bool


@dataclass(frozen=True, slots=True)
class _Draft:
    """Everything that will be written: parts, and small files by their path in the folder."""

    family: str
    parts: tuple[Part, ...]
    documents: Mapping[str, Mapping[str, Any]]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    path: Path,
    folder: Path,
    *,
    family: str | None = None,
    prediction: Prediction | None = None,
    stated: LdmYaml | None = None,
    sample_size: int | None = None,
    heads: int | None = None,
    ema: bool = False,
    ignore: Sequence[str] = (),
) -> Converted:
    """Convert a single file.

    A folder appears whole or not at all. Weights keep their bits and their dtype.

    Args:
        path: A safetensors file in the original layout.
        folder: Made here; it must not exist, or be empty.
        family: sd1, sd2, sdxl or dit, which has to agree with the file; for an autoencoder alone also sd3 and flux,
            and needed there.
        prediction: What the denoiser puts out. Needed for Stable Diffusion 2, whose weights do not say; elsewhere the
            family's by default.
        stated: The YAML that the file was trained with. It decides what shapes do not: heads, prediction, scale.
        sample_size: Side of the latents that the denoiser was trained on, cells. Needed for a DiT without positions.
        heads: Attention heads of the denoiser. Needed where neither family nor YAML say.
        ema: Take the averaged weights of the UNet, in a file that holds both.
        ignore: Patterns (`*`, `?`) of further tensors that shall be left out.

    Returns:
        What was written, and what the pipeline needs besides.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a pickle.
        CheckpointError: It is broken, of no known layout, or has missing, unknown or misshapen tensors; all of them.
        SpecError: Something has to be stated, or contradicts the file; or the folder is not empty.
    """
    header = open_header(path)
    layout = detect(header)
    wishes = _Wishes(family, prediction, stated, sample_size, heads, ema)
    draft = _draft(path, header, layout, wishes)
    _check(path, header, draft.parts, ignore)
    _refuse_occupied(folder)
    _write(path, header, draft, folder)
    left_out = sum(name.startswith(EMA_PREFIX) for name in header)
    notes = draft.notes
    if left_out and not ema:
        notes = (
            *notes,
            f"{left_out} averaged tensors ({EMA_PREFIX}*) were left out; ema=True takes them instead",
        )
    return Converted(
        folder=folder,
        family=draft.family,
        components=tuple(folder / part.folder for part in draft.parts),
        missing=draft.missing,
        notes=notes,
    )


def _draft(path: Path, header: Mapping[str, TensorEntry], layout: Layout, wishes: _Wishes) -> _Draft:
    if layout.family == "vae":
        return _autoencoder(path, header, layout, wishes)
    if wishes.family not in (None, layout.family):
        raise SpecError(
            f"{path} is of family {layout.family}, not {wishes.family}", hint="leave the family to the file"
        )
    if layout.family == "dit":
        return _dit(path, header, wishes)
    return _pipeline(path, header, layout, wishes)


def _autoencoder(path: Path, header: Mapping[str, TensorEntry], layout: Layout, wishes: _Wishes) -> _Draft:
    if wishes.family is not None and wishes.family not in SCALINGS:
        raise SpecError(
            f"family {wishes.family!a} is not known", [did_you_mean(wishes.family, list(SCALINGS))]
        )
    if wishes.prediction is not None or wishes.ema:
        raise SpecError(f"{path} holds an autoencoder alone", ["prediction and ema are words for a denoiser"])
    prefix = layout.prefixes["vae"]
    part = vae_part(section(header, prefix), prefix, wishes.family, _scale(path, header), None, wishes.stated)
    return _Draft(wishes.family or "vae", (part,), {}, (), ())


def _dit(path: Path, header: Mapping[str, TensorEntry], wishes: _Wishes) -> _Draft:
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
    return _Draft("dit", (part,), _documents(index, DIT_SCHEDULER), ("vae",), notes)


def _pipeline(path: Path, header: Mapping[str, TensorEntry], layout: Layout, wishes: _Wishes) -> _Draft:
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
    return _Draft(
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


def _prediction(path: Path, header: Mapping[str, TensorEntry], family: str, wishes: _Wishes) -> Prediction:
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


def _check(
    path: Path, header: Mapping[str, TensorEntry], parts: Sequence[Part], ignore: Sequence[str]
) -> None:
    """Compare the tables with the file.

    Raises:
        CheckpointError: With everything that is missing, unknown or misshapen.
    """
    pieces = [piece for part in parts for piece in part.pieces]
    used = {piece.source for piece in pieces}
    unused = tuple(start for part in parts for start in part.unused)
    problems = problems_of(pieces, header)
    problems += [
        f"unknown: {name} {list(entry.shape)}"
        for name, entry in header.items()
        if name not in used
        and not is_ignored(name)
        and not name.startswith(unused or ("\0",))
        and not any(fnmatchcase(name, pattern) for pattern in ignore)
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not hold what its layout says ({len(problems)} problems)",
            sorted(problems),
            hint="tensors that are no part of the network can be left out by name: ignore",
        )
    size = sum(math.prod(entry.shape) * BITS[entry.dtype] // 8 for entry in header.values())
    written = sum(size_of(piece, header) for piece in pieces)
    if written > max(MAX_GROWTH * size, ALWAYS_ALLOWED_BYTES):
        raise CheckpointError(f"{path} has {size} bytes of data and would become {written}")


def _refuse_occupied(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} exists already", hint="name a folder that is not there yet")


def _write(path: Path, header: Mapping[str, TensorEntry], draft: _Draft, folder: Path) -> None:
    """Write everything into a folder beside its place, and move it there when it is whole."""
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    size = sum(size_of(piece, header) for part in draft.parts for piece in part.pieces)
    free = shutil.disk_usage(parent).free
    if size > free:
        raise SpecError(f"{parent} has {free} bytes left; {size} are needed")
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=parent))
    try:
        for part in draft.parts:
            (partial / part.folder).mkdir()
            write_pieces(path, header, part.pieces, partial / part.folder / part.weights)
            _write_json(partial / part.folder / CONFIG, part.config)
        for name, document in draft.documents.items():
            (partial / name).parent.mkdir(exist_ok=True)
            _write_json(partial / name, document)
        partial.chmod(0o755)  # A temporary folder is the owner's alone.
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
