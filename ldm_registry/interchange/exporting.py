"""A spec to a pipeline folder that diffusers opens, with the same weights to the bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file

from ldm_registry.assembly import Plan, planned
from ldm_registry.build import Built
from ldm_registry.digests import verify
from ldm_registry.errors import SpecError
from ldm_registry.foreign import Foldable, ForeignScheduler
from ldm_registry.interchange.counterpart import counterpart
from ldm_registry.interchange.pipeline_folder import INDEX, SCHEDULER_CONFIG
from ldm_registry.interchange.recipes import SCHEDULER, Recipe
from ldm_registry.interfaces import Component, Scheduler
from ldm_registry.registry import Registry
from ldm_registry.spec import ConditionerSpec, DenoiserSpec, PipelineSpec, StageSpec
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import CONFIG, load_weights, save_checkpoint

WRITTEN_FOR = "0.36.0"
"""Oldest diffusers that knows every class and key that is written."""
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """A pipeline folder that was written.

    Attributes:
        folder: Where.
        pipeline: Class of diffusers that opens it.
        call: Arguments with which it makes what the spec says, beyond the defaults of its class.
    """

    folder: Path
    pipeline: str
    call: Mapping[str, Any]


def export_pipeline(
    spec: PipelineSpec, folder: Path, *, overwrite: bool = False, registry: Registry | None = None
) -> Exported:
    """Write the pipeline of a spec as diffusers would.

    Everything is written beside its place and renamed at the end: an export that was cut short leaves nothing.

    Args:
        spec: What to write.
        folder: Where to; has to be new or empty.
        overwrite: Also replace an earlier pipeline folder.
        registry: Where the parts come from; None discovers what is installed.

    Raises:
        SpecError: diffusers has no pipeline for it; gives every reason. Or the folder holds other things.
        LdmError: As `assemble`.
    """
    registry = registry or Registry.discover()
    plan = planned(spec, registry)
    recipe = counterpart(spec, plan)
    config = _scheduler_config(plan, recipe)
    _claim(folder, overwrite=overwrite)
    partial = folder.absolute().with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_parts(partial, spec, plan, recipe)
        _write_json(partial / SCHEDULER / SCHEDULER_CONFIG, config)
        _write_json(partial / INDEX, _index(spec, plan, recipe, config["_class_name"]))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    steps = len(cast(Scheduler, plan.stages[Kind.SCHEDULER].component).levels()) - 1
    call: dict[str, Any] = {"num_inference_steps": steps}
    if recipe.guidance != 1.0:
        call["guidance_scale"] = spec.guidance.scale
    return Exported(folder, recipe.pipeline, call)


def _scheduler_config(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    sampler = cast(ForeignScheduler, plan.stages[Kind.SCHEDULER].component)
    trained = plan.stages[Kind.DENOISER].trained
    if trained is None:
        raise SpecError("the denoiser was trained under no noise schedule; diffusers needs one")
    config = sampler.to_diffusers(trained.schedule, trained.prediction, trained.time_scale)
    changed = [
        f"{key} is {config[key]!r}; {recipe.pipeline} sets {value!r} whatever the config says"
        for key, value in recipe.scheduler_overrides.items()
        if key in config and config[key] != value
    ]
    if changed:
        raise SpecError("the sampler of this spec does not survive in diffusers", changed)
    return {"_diffusers_version": WRITTEN_FOR, **config}


def _write_parts(folder: Path, spec: PipelineSpec, plan: Plan, recipe: Recipe) -> None:
    denoiser = _loaded(plan.stages[Kind.DENOISER], spec.denoiser)
    save_checkpoint([denoiser], folder / recipe.denoiser, contract=None, card=_card(denoiser))
    if recipe.codec is not None:
        halves = [
            _loaded(plan.stages[Kind.ENCODER], spec.encoder),
            _loaded(plan.stages[Kind.DECODER], spec.decoder),
        ]
        if recipe.unheeded(halves[0].config.model_dump()):
            halves = [cast(Foldable, half).folded() for half in halves]
        save_checkpoint(halves, folder / recipe.codec, contract=None, card=_card(halves[0]))
    for text, label in zip(recipe.text, _text_labels(plan), strict=True):
        stage, built = spec.conditioners[label], plan.conditioners[label]
        assert built.folder is not None
        assert stage.tokenizer is not None
        part = _loaded(built, stage)
        (folder / text.folder).mkdir()
        shutil.copyfile(built.folder / CONFIG, folder / text.folder / CONFIG)
        save_file(part.state_dict(), folder / text.folder / "model.safetensors", metadata={"format": "pt"})
        _copy_tokenizer(Path(stage.tokenizer), folder / text.tokenizer)


def _text_labels(plan: Plan) -> list[str]:
    """Labels of the text encoders, in the order in which their outputs are joined."""
    return sorted(label for label, part in plan.conditioners.items() if part.folder is not None)


def _loaded(built: Built, stage: StageSpec | DenoiserSpec | ConditionerSpec) -> Component:
    """The component with its weights as they are stored, in their own floating-point type."""
    if built.folder is None:
        if built.component.state_dict():
            raise SpecError(f"{built.component.kind} {built.component.name!r} has no checkpoint to export")
        return built.component
    if built.contract is not None:
        verify(built.folder, built.contract)
    load_weights(built.component, built.folder, variant=stage.variant)
    return built.component


def _copy_tokenizer(source: Path, target: Path) -> None:
    target.mkdir()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _index(spec: PipelineSpec, plan: Plan, recipe: Recipe, scheduler: str) -> dict[str, Any]:
    denoiser, codec = plan.stages[Kind.DENOISER].component, plan.stages[Kind.ENCODER].component
    index: dict[str, Any] = {"_class_name": recipe.pipeline, "_diffusers_version": WRITTEN_FOR}
    index[recipe.denoiser] = ["diffusers", denoiser.diffusers_class]
    index[SCHEDULER] = ["diffusers", scheduler]
    if recipe.codec is not None:
        index[recipe.codec] = ["diffusers", codec.diffusers_class]
    for text, label in zip(recipe.text, _text_labels(plan), strict=True):
        folder = plan.conditioners[label].folder
        assert folder is not None
        config = json.loads((folder / CONFIG).read_bytes())
        index[text.folder] = ["transformers", config["architectures"][0]]
        index[text.tokenizer] = ["transformers", _TOKENIZERS[text.use]]
    if recipe.pipeline == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    if "force_zeros_for_empty_prompt" in recipe.settings:
        configs = [plan.conditioners[label].component.config for label in _text_labels(plan)]
        index["force_zeros_for_empty_prompt"] = all(getattr(one, "zeros_for_empty", False) for one in configs)
    return index


_TOKENIZERS = {"clip-text": "CLIPTokenizer", "t5-text": "T5Tokenizer"}


def _card(component: Component) -> str:
    return (
        f"---\nlibrary_name: diffusers\n---\n\n# {component.diffusers_class}\n\nExported by ldm-registry.\n"
    )


def _claim(folder: Path, *, overwrite: bool) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (overwrite and (folder / INDEX).is_file()):
        hint = "add --overwrite" if (folder / INDEX).is_file() else "name another folder"
        raise SpecError(f"{folder} exists already", hint=hint)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
