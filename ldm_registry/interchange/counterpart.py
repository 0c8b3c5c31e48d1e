"""Which pipeline class of diffusers does what a spec does, and why none does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from ldm_registry.assembly import Plan
from ldm_registry.errors import SpecError
from ldm_registry.foreign import Foldable, ForeignScheduler
from ldm_registry.interchange.recipes import RECIPES, Recipe
from ldm_registry.interfaces import Denoiser
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import Kind

_DIT_NULL = 1000
"""DiTPipeline takes this label for "no class", whatever the network has."""
_SIGMA_TOKENS = 300
"""How many tokens of text PixArt-Sigma reads."""


def counterpart(spec: PipelineSpec, plan: Plan) -> Recipe:
    """The pipeline class that does what a spec does.

    Args:
        spec: The spec.
        plan: Its parts, without memory.

    Raises:
        SpecError: There is none.
    """
    denoiser, scheduler = plan.stages[Kind.DENOISER].component, plan.stages[Kind.SCHEDULER].component
    texts = sorted(part.component.name for part in plan.conditioners.values())
    pixels = plan.stages[Kind.ENCODER].component.diffusers_class is None
    match denoiser.diffusers_class, pixels, texts:
        case "UNet2DModel", True, []:
            name = "DDPMPipeline" if scheduler.diffusers_class == "DDPMScheduler" else "DDIMPipeline"
        case "UNet2DModel", False, []:
            name = "LDMPipeline"
        case "DiTTransformer2DModel", False, []:
            name = "DiTPipeline"
        case "UNet2DConditionModel", False, ["clip-text"]:
            name = "StableDiffusionPipeline"
        case "UNet2DConditionModel", False, ["clip-text", "clip-text", "image-size"]:
            name = "StableDiffusionXLPipeline"
        case "PixArtTransformer2DModel", False, ["t5-text"] | ["image-size", "t5-text"]:
            lengths = {
                getattr(part.component.config, "max_length", None) for part in plan.conditioners.values()
            }
            name = "PixArtSigmaPipeline" if _SIGMA_TOKENS in lengths else "PixArtAlphaPipeline"
        case _:
            raise SpecError(
                "diffusers has no pipeline of these parts",
                [
                    f"denoiser {denoiser.name!r}, {'pixel space' if pixels else 'a codec'}, "
                    f"conditioners: {', '.join(texts) or 'none'}"
                ],
                hint="each checkpoint folder of it opens in diffusers by itself",
            )
    problems = list(_inexpressible(spec, plan, name))
    if problems:
        raise SpecError(f"{name} of diffusers cannot do what this spec does", problems)
    return RECIPES[name]


def _inexpressible(spec: PipelineSpec, plan: Plan, pipeline: str) -> Iterator[str]:
    denoiser = cast(Denoiser, plan.stages[Kind.DENOISER].component)
    sampler = plan.stages[Kind.SCHEDULER].component
    first, second = plan.stages[Kind.ENCODER], plan.stages[Kind.DECODER]
    if first.component.config != second.component.config or first.folder != second.folder:
        yield "encoder and decoder come from two checkpoints; a pipeline folder has one autoencoder"
    if first.component.diffusers_class != second.component.diffusers_class:
        yield f"encoder {first.component.name!r} and decoder {second.component.name!r} are not one class of diffusers"
    if getattr(first.component.config, "latent_std", 1.0) != 1.0:
        yield "the codec scales its latents to unit variance (_latent_std), which diffusers leaves to the scheduler"
    if not all(isinstance(half.component, Foldable) for half in (first, second)):
        yield from (
            f"{pipeline} passes over {key} of the codec's config"
            for key in RECIPES[pipeline].unheeded(first.component.config.model_dump())
        )
    if denoiser.diffusers_class == "UNet2DModel" and denoiser.conditioning:
        yield f"{pipeline} hands no {', '.join(denoiser.conditioning)} to the network"
    if RECIPES[pipeline].guidance == 1.0 and spec.guidance.scale != 1.0:
        yield f"{pipeline} has no guidance; the spec's scale is {spec.guidance.scale:g}"
    label = denoiser.conditioning.get("class_label")
    guided = spec.guidance.scale != 1.0
    if pipeline == "DiTPipeline" and guided and (label is None or label.null != _DIT_NULL):
        null = label.null if label else None
        yield f"{pipeline} takes label {_DIT_NULL} for no class; this network has {null}"
    if not isinstance(sampler, ForeignScheduler):
        yield f"scheduler {sampler.name!r} has no counterpart in diffusers"
    elif (sampler.diffusers_class or "").startswith("FlowMatch") and pipeline != "PixArtSigmaPipeline":
        yield f"{pipeline} scales the input of the network, which {sampler.diffusers_class} cannot"
    if pipeline == "DDIMPipeline" and sampler.diffusers_class != "DDIMScheduler":
        yield f"in pixel space diffusers samples with DDPM or DDIM only, not {sampler.diffusers_class}"
