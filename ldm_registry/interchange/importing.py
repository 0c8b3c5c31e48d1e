"""A pipeline folder of diffusers to a spec and contracts that refer to the weights where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ldm_registry.assembly import Plan, component_name, planned
from ldm_registry.build import build
from ldm_registry.contracts import Contract
from ldm_registry.errors import SpecError
from ldm_registry.foreign import ForeignScheduler, SchedulerReading
from ldm_registry.interchange.described import described
from ldm_registry.interchange.pipeline_folder import PipelineFolder
from ldm_registry.interchange.recipes import SCHEDULER, Recipe
from ldm_registry.interfaces import Denoiser, Encoder, Scheduler
from ldm_registry.registry import Registry
from ldm_registry.spec import DenoiserSpec, PipelineSpec, StageSpec
from ldm_registry.vocabulary import DType, Kind
from ldm_registry.weights import read_config

EXAMPLE_PROMPT = "a photograph of an astronaut riding a horse"


_MISSING = object()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person who imports may say; None leaves it to the folder.

    Attributes:
        variant: Which of several sets of weights, such as fp16.
        dtype: Of every stage but a codec whose config asks for single precision.
        steps: Of the sampler.
        size: (height, width) in pixels.
        prompt: For a pipeline with text.
        parts: Folders of parts that lie elsewhere, by the name that the pipeline has for them.
    """

    variant: str | None = None
    dtype: DType | None = None
    steps: int | None = None
    size: tuple[int, int] | None = None
    prompt: str | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import found; nothing is written yet.

    Attributes:
        spec: Refers to the weights where they lie and to the contracts where they will be.
        contracts: By file.
        plan: The parts, without memory.
        notes: What the pipeline's own code changes, and where our sampler departs from theirs.
    """

    spec: PipelineSpec
    contracts: Mapping[Path, Contract]
    plan: Plan
    notes: tuple[str, ...]


def import_pipeline(
    folder: Path, output: Path, wishes: Wishes | None = None, registry: Registry | None = None
) -> Imported:
    """Read a pipeline folder.

    Args:
        folder: Holds `model_index.json`.
        output: Where the spec will be written; the contracts go into a folder beside it.
        wishes: What to have otherwise than the folder says.
        registry: Where the parts come from; None discovers what is installed.

    Raises:
        LdmError: The folder is not whole, or something in it is not understood; nothing is guessed.
    """
    wishes, registry, output = wishes or Wishes(), registry or Registry.discover(), output.absolute()
    source = PipelineFolder.read(folder, wishes.parts)
    sampler, reading = _scheduler(source, registry)
    values = {
        **_networks(source, reading, wishes, registry),
        **_conditioning(source, wishes, registry),
    }
    steps = wishes.steps or min(source.recipe.steps, reading.schedule.get("steps", source.recipe.steps))
    values["scheduler"] = {"use": sampler.name, "config": {**_telling(sampler, reading), "steps": steps}}
    values["image"] = _image(values, wishes, registry)
    plan = planned(PipelineSpec.model_validate(values), registry)
    contracts = described(source, plan, reading, wishes.variant)
    beside = output.parent / f"{output.stem}.contracts"
    _refer(values, source.recipe, beside)
    return Imported(
        PipelineSpec.model_validate(values).with_source(output),
        {beside / f"{part}.json": contract for part, contract in contracts.items()},
        plan,
        (*source.notes(), *reading.differences),
    )


def _scheduler(source: PipelineFolder, registry: Registry) -> tuple[type[Scheduler], SchedulerReading]:
    wanted, known = source.classes[SCHEDULER], []
    for name in registry.names(Kind.SCHEDULER):
        sampler = registry.get(Kind.SCHEDULER, name)
        if not issubclass(sampler, ForeignScheduler) or sampler.diffusers_class is None:
            continue
        if sampler.diffusers_class == wanted:
            return cast(type[Scheduler], sampler), sampler.from_diffusers(source.scheduler_config())
        known.append(sampler.diffusers_class)
    raise SpecError(
        f"{source.path / SCHEDULER} is a {wanted}, which no installed sampler reads",
        [f"known are {', '.join(sorted(known)) or 'none'}"],
        hint="`ldm list scheduler` shows what is installed",
    )


def _telling(sampler: type[Scheduler], reading: SchedulerReading) -> dict[str, Any]:
    """The sampler's settings without those that are its defaults anyway."""
    usual = sampler.Config()
    return {key: value for key, value in reading.config.items() if getattr(usual, key, _MISSING) != value}


def _networks(
    source: PipelineFolder, reading: SchedulerReading, wishes: Wishes, registry: Registry
) -> dict[str, Any]:
    recipe = source.recipe
    network = source.folder_of(recipe.denoiser)
    trained = {
        "prediction": reading.prediction,
        "schedule": dict(reading.schedule),
        "time_scale": reading.time_scale,
    }
    denoiser = {
        **_stage(Kind.DENOISER, network, wishes, registry),
        "trained": trained,
    }
    if recipe.codec is None:
        channels = read_config(network).get("in_channels", 3)
        pixels = {"use": "identity", "config": {"channels": channels}}
        return {"encoder": pixels, "denoiser": denoiser, "decoder": dict(pixels)}
    folder = source.folder_of(recipe.codec)
    halves = {
        kind: _stage(kind, folder, wishes, registry) | _normalisation(kind, source, reading, registry)
        for kind in (Kind.ENCODER, Kind.DECODER)
    }
    return {"encoder": halves[Kind.ENCODER], "denoiser": denoiser, "decoder": halves[Kind.DECODER]}


def _stage(
    kind: Kind, folder: Path, wishes: Wishes, registry: Registry, use: str | None = None
) -> dict[str, Any]:
    dtype = wishes.dtype
    if kind in (Kind.ENCODER, Kind.DECODER) and read_config(folder).get("force_upcast", True):
        dtype = None  # its activations leave the range of half precision
    return {
        "use": use or component_name(kind, folder, registry),
        "checkpoint": str(folder),
        "variant": wishes.variant,
        "dtype": dtype,
    }


def _normalisation(
    kind: Kind, source: PipelineFolder, reading: SchedulerReading, registry: Registry
) -> dict[str, Any]:
    """What the codec's config leaves out and its family knows; and the scale at which the denoiser was trained."""
    recipe = source.recipe
    assert recipe.codec is not None
    folder = source.folder_of(recipe.codec)
    codec, stated = registry.get(kind, component_name(kind, folder, registry)), read_config(folder)
    families: Mapping[str, Mapping[str, Any]] = getattr(codec, "families", {})
    known = families.get(recipe.family or "", {})
    usual = codec.Config().model_dump(by_alias=True)
    settings = {
        key: value
        for key, value in known.items()
        if "scaling_factor" not in stated
        and key not in stated
        and (key == "scaling_factor" or value != usual[key])
    }
    if reading.data_std != 1.0:
        settings["latent_std"] = reading.data_std
    return {"config": settings} if settings else {}


def _conditioning(source: PipelineFolder, wishes: Wishes, registry: Registry) -> dict[str, Any]:
    recipe = source.recipe
    guidance = {} if recipe.guidance == 1.0 else {"guidance": {"scale": recipe.guidance}}
    if not recipe.text:
        labels = {} if recipe.class_label is None else {"condition": {"class_label": (recipe.class_label,)}}
        return {**labels, **guidance}
    conditioners: dict[str, dict[str, Any]] = {}
    for text in recipe.text:
        config = dict(text.config)
        if source.settings.get("force_zeros_for_empty_prompt", bool(recipe.zeros_for_empty)):
            config["zeros_for_empty"] = True
        conditioners[text.folder] = {
            **_stage(Kind.CONDITIONER, source.folder_of(text.folder), wishes, registry, text.use),
            "tokenizer": str(source.folder_of(text.tokenizer)),
            **({"config": config} if config else {}),
        }
    if recipe.size_outputs and _wants_size(source):
        conditioners["size"] = {"use": "image-size", "config": {"outputs": recipe.size_outputs}}
    return {
        "conditioners": conditioners,
        "condition": {"prompt": (wishes.prompt or EXAMPLE_PROMPT,)},
        **guidance,
    }


def _wants_size(source: PipelineFolder) -> bool:
    """PixArt is told the size of the image only where it was trained with that."""
    config = read_config(source.folder_of(source.recipe.denoiser))
    stated = config.get("use_additional_conditions")
    if source.classes[source.recipe.denoiser] == "UNet2DConditionModel":
        return bool(config.get("addition_embed_type") == "text_time")
    return bool(stated if stated is not None else config.get("sample_size", 128) == 128)


def _image(values: Mapping[str, Any], wishes: Wishes, registry: Registry) -> dict[str, Any]:
    """Channels and size of the image: the size that the denoiser was trained on, through the codec's stride."""
    encoder = cast(
        Encoder, build(Kind.ENCODER, StageSpec.model_validate(values["encoder"]), registry).component
    )
    channels = encoder.image_channels
    if wishes.size is not None:
        return {"channels": channels, "size": wishes.size}
    stage = DenoiserSpec.model_validate(values["denoiser"])
    denoiser = cast(Denoiser, build(Kind.DENOISER, stage, registry).component)
    sample = denoiser.latent_size or getattr(denoiser.config, "sample_size", None)
    if sample is None:
        raise SpecError(
            f"{stage.checkpoint} does not say for which size it was trained (sample_size is null)",
            hint="say how large the images are: --size 512, or --size 512x768",
        )
    height, width = sample if isinstance(sample, tuple) else (sample, sample)
    stride = encoder.latent_space.stride
    return {"channels": channels, "size": (height * stride, width * stride)}


def _refer(values: dict[str, Any], recipe: Recipe, beside: Path) -> None:
    """Name the contracts, which say how the denoiser was trained."""
    values["denoiser"].pop("trained")
    values["denoiser"]["contract"] = beside / f"{recipe.denoiser}.json"
    if recipe.codec is not None:
        for stage in (Kind.ENCODER, Kind.DECODER):
            values[stage]["contract"] = beside / f"{recipe.codec}.json"
    for text in recipe.text:
        values["conditioners"][text.folder]["contract"] = beside / f"{text.folder}.json"
