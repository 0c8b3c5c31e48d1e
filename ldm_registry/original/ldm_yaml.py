"""The YAML of latent-diffusion (`target:` and `params:`), mapped from a table of known targets.

A target is a word that is looked up here. Nothing is imported, and a word that is not in the table is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_registry.errors import SpecError
from ldm_registry.original.families import PREDICTIONS
from ldm_registry.original.ldm_networks import read_autoencoder, read_unet
from ldm_registry.original.parameters import Parameters, chosen
from ldm_registry.vocabulary import Prediction
from ldm_registry.yaml_reader import read_yaml

DIFFUSION = ("ldm.models.diffusion.ddpm.LatentDiffusion",)
UNETS = ("ldm.modules.diffusionmodules.openaimodel.UNetModel",)
KL = "ldm.models.autoencoder.AutoencoderKL"
VQ = ("ldm.models.autoencoder.VQModelInterface", "ldm.models.autoencoder.VQModel")
CLIP = "ldm.modules.encoders.modules.FrozenCLIPEmbedder"
OPEN_CLIP = "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"
UNCONDITIONAL = "__is_unconditional__"
SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}
"""Their names of beta schedules in diffusers' words, which use `linear` for the other one."""
PARAMETERIZATIONS = {"eps": Prediction.EPSILON, "v": Prediction.V, "x0": Prediction.X0}
COSINE_OFFSET = 8e-3


@dataclass(frozen=True, slots=True)
class LdmYaml:
    """What a YAML of latent-diffusion says, in the config keys of diffusers and transformers.

    Attributes:
        path: Of the file.
        unet: `config.json` of the UNet; None in the YAML of an autoencoder.
        autoencoder: `config.json` of the first stage, with its `scaling_factor` where the YAML fixes it.
        scheduler: `scheduler_config.json`; None in the YAML of an autoencoder.
        conditioner: Class and layout of the text encoder; None without text.
        prediction: What the network puts out; None in the YAML of an autoencoder.
        measured_scale: Whether the scale of the latents was measured in training: it is in the weights then.
    """

    path: Path
    unet: Mapping[str, Any] | None
    autoencoder: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None
    conditioner: Mapping[str, Any] | None
    prediction: Prediction | None
    measured_scale: bool = False


def read_ldm_yaml(path: Path) -> LdmYaml:
    """Read a YAML of latent-diffusion.

    Args:
        path: The file.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is not plain YAML, names a target or a key that is not known, or asks for something that is
            not built; everything with file and line.
    """
    root = read_yaml(path)
    problems: list[str] = []
    top = Parameters(root, "", problems)
    top.inert("data", "lightning")
    if not isinstance(root.value, Mapping) or "model" not in root.value:
        raise SpecError(f"{path} is no YAML of latent-diffusion", ["it has no `model:`"])
    target, params = chosen(top, "model", (*DIFFUSION, KL, *VQ), ("base_learning_rate",))
    top.finish()
    found = None
    if target in DIFFUSION:
        found = _diffusion(path, params)
    elif target is not None:
        autoencoder = read_autoencoder(params, codebook=target in VQ)
        found = LdmYaml(path, None, autoencoder or {}, None, None, None)
    if problems or found is None:
        raise SpecError(
            f"{path} cannot be mapped to diffusers' configs ({len(problems)} problems)",
            sorted(problems, key=_line_of),
        )
    return found


def _line_of(problem: str) -> tuple[int, str]:
    parts = problem.split(":")
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0, problem)


def _diffusion(path: Path, params: Parameters) -> LdmYaml:
    _pass_over(params)
    scheduler, prediction = _scheduler(params)
    target, inner = chosen(params, "unet_config", UNETS)
    unet = read_unet(inner) if target else None
    target, inner = chosen(params, "first_stage_config", (KL, *VQ))
    autoencoder = read_autoencoder(inner, codebook=target in VQ) if target else None
    conditioner = _conditioner(params)
    if conditioner and params.word("conditioning_key", None) is None and params.flag("concat_mode", True):
        # What latent-diffusion falls back to is concatenation.
        params.report("conditioning_key", "is missing; built is attention to text ('crossattn')")
    scale, measured = params.number("scale_factor", 1.0), params.flag("scale_by_std", False)
    size = params.integer("image_size")
    params.finish()
    if scale is not None and scale <= 0:
        params.report("scale_factor", f"got {scale}, expected a number above 0")
    return LdmYaml(
        path=path,
        unet={**(unet or {}), **({"sample_size": size} if size else {})},
        autoencoder={**(autoencoder or {}), **({} if measured else {"scaling_factor": scale})},
        scheduler=scheduler,
        conditioner=conditioner,
        prediction=prediction,
        measured_scale=measured,
    )


def _pass_over(params: Parameters) -> None:
    params.inert(
        "monitor", "ckpt_path", "ignore_keys", "load_only_unet", "use_ema", "log_every_t", "channels"
    )
    params.inert(
        "first_stage_key", "cond_stage_key", "cond_stage_trainable", "cond_stage_forward", "loss_type"
    )
    params.inert("original_elbo_weight", "l_simple_weight", "learn_logvar", "logvar_init", "scheduler_config")
    params.inert("num_timesteps_cond", "clip_denoised", "use_positional_encodings", "ucg_training")
    params.inert("base_learning_rate", "make_it_fit", "reset_ema", "reset_num_ema_updates")
    params.only("concat_mode", (True, False), "expected true or false")
    params.only(
        "conditioning_key", ("crossattn", None), "built is attention to text ('crossattn'), or nothing"
    )
    params.only("given_betas", (None,), "built are schedules by name")
    params.only("v_posterior", (0, 0.0), "built is the smaller variance (0)")
    params.only("force_null_conditioning", (False,), "built is false")


def _scheduler(params: Parameters) -> tuple[dict[str, Any], Prediction]:
    name = params.word("beta_schedule", "linear", tuple(SCHEDULES)) or "linear"
    parameterization = params.word("parameterization", "eps", tuple(PARAMETERIZATIONS)) or "eps"
    offset = params.number("cosine_s", COSINE_OFFSET)
    if name == "cosine" and offset != COSINE_OFFSET:
        params.report("cosine_s", f"got {offset}; diffusers' squaredcos_cap_v2 has {COSINE_OFFSET}")
    prediction = PARAMETERIZATIONS[parameterization]
    config = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": params.integer("timesteps", 1000),
        "beta_start": params.number("linear_start", 1e-4),
        "beta_end": params.number("linear_end", 2e-2),
        "beta_schedule": SCHEDULES[name],
        "trained_betas": None,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "prediction_type": PREDICTIONS[prediction],
    }
    return config, prediction


def _conditioner(params: Parameters) -> dict[str, Any] | None:
    node = params.node("cond_stage_config")
    if node is None or node.value in (UNCONDITIONAL, None):
        return None
    target, inner = chosen(params, "cond_stage_config", (CLIP, OPEN_CLIP))
    if target is None:
        return None
    inner.inert("device", "freeze")
    length = inner.integer("max_length", 77)
    if target == CLIP:
        version = "openai/clip-vit-large-patch14"
        inner.only("version", (version,), f"built is {version}")
        inner.only("layer", ("last",), "built is the last layer")
        inner.only("layer_idx", (None,), "built is the last layer")
    else:
        inner.only("arch", ("ViT-H-14",), "built is ViT-H-14")
        inner.inert("version")
        inner.require("layer")
        inner.only("layer", ("penultimate",), "built is the layer before the last ('penultimate')")
    inner.finish()
    return {
        "_class_name": "CLIPTextModel",
        "hidden_act": "quick_gelu" if target == CLIP else "gelu",
        "max_position_embeddings": length,
    }
