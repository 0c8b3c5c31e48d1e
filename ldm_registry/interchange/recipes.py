"""Which parts the pipelines of diffusers consist of, and what they do to them beyond their configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldm_registry.errors import SpecError, did_you_mean

SCHEDULER = "scheduler"
NOT_FOR_IMAGES = ("safety_checker", "feature_extractor", "image_encoder", "add_watermarker")
"""Parts of a pipeline folder that have no say in the image, or only where the caller hands in another image."""


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A text encoder of a pipeline, with the folder of its tokenizer beside it.

    Attributes:
        folder: Of the encoder.
        tokenizer: Of its tokenizer.
        use: Our conditioner.
        config: Settings of ours that the pipeline's code decides.
    """

    folder: str
    tokenizer: str
    use: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One pipeline class of diffusers.

    Attributes:
        pipeline: Its name.
        denoiser: Folder of the network.
        codec: Folder of the autoencoder; None in pixel space.
        text: Its text encoders.
        size_outputs: What the denoiser is told about the image's size, in the words of conditioner `image-size`.
        steps: Sampling steps where the caller names none.
        guidance: Guidance scale where the caller names none.
        family: Whose normalisation a codec has that states none.
        normalises: Whether it heeds the mean and std of the latents that the codec's config states; all of them heed
            its scaling factor, and none a shift.
        scheduler_overrides: What the pipeline's constructor sets in the scheduler's config, whatever the file says.
        settings: Keys of `model_index.json` that are settings instead of parts.
        zeros_for_empty: Whether an empty negative text is all zeros, where the index does not say.
        class_label: Label that an image gets where nobody names one; None where there are no classes.
    """

    pipeline: str
    denoiser: str
    codec: str | None
    text: tuple[TextEncoder, ...] = ()
    size_outputs: tuple[str, ...] = ()
    steps: int = 50
    guidance: float = 1.0
    family: str | None = None
    normalises: bool = False
    scheduler_overrides: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    zeros_for_empty: bool = False
    class_label: int | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Every folder that the pipeline needs."""
        texts = [name for text in self.text for name in (text.folder, text.tokenizer)]
        return (self.denoiser, SCHEDULER, *([self.codec] if self.codec else []), *texts)

    def unheeded(self, codec: Mapping[str, Any]) -> list[str]:
        """Keys of a codec's config that normalise its latents and that the pipeline passes over."""
        keys = ("shift_factor",) if self.normalises else ("shift_factor", "latents_mean", "latents_std")
        return [key for key in keys if codec.get(key)]


_STABLE_DIFFUSION = Recipe(
    "StableDiffusionPipeline",
    denoiser="unet",
    codec="vae",
    text=(TextEncoder("text_encoder", "tokenizer", "clip-text"),),
    guidance=7.5,
    family="sd1",
    # Its constructor repairs the configs of early checkpoints.
    scheduler_overrides={"steps_offset": 1, "clip_sample": False},
    settings=("requires_safety_checker",),
)
_STABLE_DIFFUSION_XL = Recipe(
    "StableDiffusionXLPipeline",
    denoiser="unet",
    codec="vae",
    text=(
        TextEncoder("text_encoder", "tokenizer", "clip-text", {"hidden_layer": -2}),
        TextEncoder("text_encoder_2", "tokenizer_2", "clip-text", {"hidden_layer": -2, "pooled": True}),
    ),
    size_outputs=("size_and_crop",),
    guidance=5.0,
    family="sdxl",
    normalises=True,
    settings=("force_zeros_for_empty_prompt",),
    zeros_for_empty=True,
)


def _pixart(pipeline: str, max_length: int, family: str) -> Recipe:
    return Recipe(
        pipeline,
        denoiser="transformer",
        codec="vae",
        text=(TextEncoder("text_encoder", "tokenizer", "t5-text", {"max_length": max_length}),),
        size_outputs=("resolution", "aspect_ratio"),
        steps=20,
        guidance=4.5,
        family=family,
    )


RECIPES = {
    recipe.pipeline: recipe
    for recipe in (
        Recipe("DDPMPipeline", denoiser="unet", codec=None, steps=1000),
        Recipe("DDIMPipeline", denoiser="unet", codec=None),
        Recipe("LDMPipeline", denoiser="unet", codec="vqvae"),
        Recipe(
            "DiTPipeline",
            denoiser="transformer",
            codec="vae",
            guidance=4.0,
            family="sd1",
            settings=("id2label",),
            class_label=0,
        ),
        _STABLE_DIFFUSION,
        _STABLE_DIFFUSION_XL,
        _pixart("PixArtAlphaPipeline", 120, "sd1"),
        _pixart("PixArtSigmaPipeline", 300, "sdxl"),
    )
}


def recipe_of(pipeline: object, where: str) -> Recipe:
    """The recipe of a pipeline class.

    Args:
        pipeline: `_class_name` of a `model_index.json`.
        where: Named in the error.

    Raises:
        SpecError: It is none that can be imported; names those that can.
    """
    if isinstance(pipeline, str) and pipeline in RECIPES:
        return RECIPES[pipeline]
    raise SpecError(
        f"{where} is for {pipeline!r}, which cannot be imported",
        [f"known are {', '.join(RECIPES)}"],
        hint=f"{did_you_mean(str(pipeline), list(RECIPES))}; a spec can name its folders (vae/, unet/) one by one",
    )
