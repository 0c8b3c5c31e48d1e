"""What a conditional UNet takes beside the latent: names, shapes, and what is said when one is missing or wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Condition, Conditioning
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_plan import all_plans, text_width

EXACT = ("class_label", "size_and_crop")
"""What must not be rounded to the network's dtype before it is expanded: bfloat16 knows no 1001."""


def conditioning(config: UNetConditionConfig) -> dict[str, Conditioning]:
    """The inputs that the network accepts, by name."""
    accepted = {}
    width = text_width(config)
    if width is not None:
        accepted["text_embedding"] = _floats(None, width)
    if any(plan.kind.reads_text for plan in all_plans(config)):
        accepted["text_mask"] = Conditioning(shape=(None,), dtype=torch.bool, optional=True)
    if config.addition_embed_type == "text_time":
        sizes = config.size_numbers * (config.addition_time_embed_dim or 0)
        pooled = (config.projection_class_embeddings_input_dim or 0) - sizes
        accepted["pooled_text_embedding"] = _floats(pooled)
        accepted["size_and_crop"] = _floats(config.size_numbers)
    if config.time_cond_proj_dim is not None:
        accepted["guidance_embedding"] = _floats(config.time_cond_proj_dim, optional=True)
    return accepted | _class_conditioning(config)


def take(
    condition: Condition, name: str, accepted: Conditioning, z: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """A condition on the device of the latent, checked against what is accepted.

    Args:
        condition: Everything that was given.
        name: Which one.
        accepted: Its shape.
        z: The latent, for its batch and its device.
        dtype: Of vectors and tokens; labels, masks and sizes keep their own.

    Returns:
        [1 or B, ...]; None where it was not given and may be left out, or has a null label.

    Raises:
        ContractError: It is missing, or has another shape.
    """
    value = condition.get(name)
    if value is None:
        if accepted.optional or accepted.null is not None:
            return None
        raise ContractError(
            f"denoiser 'unet-condition' needs the condition {name!r}; given are "
            f"{', '.join(map(repr, condition)) or 'none'}",
            hint=_hint(name),
        )
    shape = tuple(value.shape[1:])
    fits = len(shape) == len(accepted.shape) and all(
        expected in (None, got) for expected, got in zip(accepted.shape, shape, strict=True)
    )
    if not fits or value.shape[0] not in (1, z.shape[0]):
        wanted = ", ".join(
            ["1 or " + str(z.shape[0]), *("any" if size is None else str(size) for size in accepted.shape)]
        )
        raise ContractError(
            f"condition {name!r} has shape {list(value.shape)}; denoiser 'unet-condition' expects [{wanted}]"
        )
    if name in EXACT:
        return value.to(z.device)
    return value.to(z.device, dtype if accepted.dtype.is_floating_point else accepted.dtype)


def _floats(*shape: int | None, optional: bool = False) -> Conditioning:
    return Conditioning(shape=shape, dtype=torch.float32, optional=optional)


def _class_conditioning(config: UNetConditionConfig) -> dict[str, Conditioning]:
    match config.class_embed_type:
        case "timestep":
            return {"class_label": _floats()}
        case "identity":
            return {"class_embedding": _floats(config.time_dim)}
        case "projection" | "simple_projection":
            return {"class_embedding": _floats(config.projection_class_embeddings_input_dim)}
    if config.num_class_embeds is None:
        return {}
    null_is_last = config.null_class == config.num_class_embeds - 1
    classes = config.num_class_embeds - 1 if null_is_last else config.num_class_embeds
    return {"class_label": Conditioning(shape=(), classes=classes, null=config.null_class)}


def _hint(name: str) -> str:
    if name.startswith("class"):
        return "give one, or set _null_class in the denoiser's config if a null label was trained"
    return "give the spec a conditioner that makes it from a prompt, or pass it in `condition`"
