"""What the names and shapes of a single file do not say, for each family: sizes, scalings, schedulers, pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm_registry.vocabulary import Prediction

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
EMA_PREFIX = "model_ema."

PREDICTIONS = {Prediction.EPSILON: "epsilon", Prediction.V: "v_prediction", Prediction.X0: "sample"}
"""diffusers' words."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text encoder of a family.

    Attributes:
        prefix: Of its tensors.
        open_clip: Whether it has the names of open_clip, and its activation.
        projects: Whether the projected text is used.
        projection: `projection_dim` of its published config.
        tokenizer: Folder of its tokenizer.
    """

    prefix: str
    open_clip: bool
    projects: bool
    projection: int
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Family:
    """One family of pipelines.

    Attributes:
        pipeline: Its class in diffusers.
        text: Its text encoders, by folder.
        context: Channels of the text embedding in the published networks.
        sizes: Side of the images that it was trained on, pixels, by prediction.
        heads: Attention heads of each level; None for heads of 64 channels.
        settings: Of `model_index.json`.
    """

    pipeline: str
    text: Mapping[str, TextPart]
    context: int
    sizes: Mapping[Prediction, int]
    heads: int | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a family's autoencoder is normalised: `(z - shift) * factor`.

    Attributes:
        channels: Of the latent.
        factor: `scaling_factor`.
        shift: `shift_factor`.
        size: Side of the images that it was trained on, pixels.
    """

    channels: int
    factor: float
    shift: float | None
    size: int


FAMILIES = {
    "sd1": Family(
        pipeline="StableDiffusionPipeline",
        text={"text_encoder": TextPart("cond_stage_model.transformer.", False, False, 768, "tokenizer")},
        context=768,
        sizes={Prediction.EPSILON: 512, Prediction.V: 512},
        heads=8,
        settings={"requires_safety_checker": False},
    ),
    "sd2": Family(
        pipeline="StableDiffusionPipeline",
        text={"text_encoder": TextPart("cond_stage_model.model.", True, False, 512, "tokenizer")},
        context=1024,
        sizes={Prediction.EPSILON: 512, Prediction.V: 768},
        heads=None,
        settings={"requires_safety_checker": False},
    ),
    "sdxl": Family(
        pipeline="StableDiffusionXLPipeline",
        text={
            "text_encoder": TextPart("conditioner.embedders.0.transformer.", False, False, 768, "tokenizer"),
            "text_encoder_2": TextPart("conditioner.embedders.1.model.", True, True, 1280, "tokenizer_2"),
        },
        context=2048,
        sizes={Prediction.EPSILON: 1024, Prediction.V: 1024},
        heads=None,
        settings={"force_zeros_for_empty_prompt": True},
    ),
}

# `latent_formats.py` of ComfyUI and the published configs agree on these.
SCALINGS = {
    "sd1": Scaling(4, 0.18215, None, 512),
    "sd2": Scaling(4, 0.18215, None, 768),
    "sdxl": Scaling(4, 0.13025, None, 1024),
    "sd3": Scaling(16, 1.5305, 0.0609, 1024),
    "flux": Scaling(16, 0.3611, 0.1159, 1024),
}

_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    # What latent-diffusion calls "linear": the square roots of the betas are evenly spaced.
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
_PNDM = {"_class_name": "PNDMScheduler", **_NOISE, "set_alpha_to_one": False, "skip_prk_steps": True}
_DDIM = {"_class_name": "DDIMScheduler", **_NOISE, "set_alpha_to_one": False, "clip_sample": False}
_EULER = {
    "_class_name": "EulerDiscreteScheduler",
    **_NOISE,
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
}
DIT_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}


def scheduler_config(family: str, prediction: Prediction, *, zero_snr: bool = False) -> dict[str, Any]:
    """`scheduler_config.json` of a family as it was published.

    Args:
        family: Of `FAMILIES`.
        prediction: What the network puts out.
        zero_snr: Whether it was trained on a schedule that ends in noise alone.
    """
    published = _PNDM if prediction is Prediction.EPSILON else _DDIM
    config = {**(_EULER if family == "sdxl" else published), "prediction_type": PREDICTIONS[prediction]}
    if zero_snr:
        # Section 3.3 of Lin et al. 2023: such a network has to be started at its last step.
        config.update(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return config
