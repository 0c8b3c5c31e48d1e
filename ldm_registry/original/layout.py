"""Which family a single file belongs to, from the names and shapes of its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ldm_registry.errors import CheckpointError
from ldm_registry.original.families import FAMILIES, UNET_PREFIX, VAE_PREFIX
from ldm_registry.safetensors_header import TensorEntry

VAE_PREFIXES = ("", VAE_PREFIX, "vae.")
DIT_NAMES = (
    "x_embedder.proj.weight",
    "y_embedder.embedding_table.weight",
    "blocks.0.adaLN_modulation.1.weight",
)
_OTHERS = {
    f"{UNET_PREFIX}joint_blocks.": "Stable Diffusion 3",
    "joint_blocks.": "Stable Diffusion 3",
    f"{UNET_PREFIX}double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL",
    "edm_mean": "Playground 2.5",
    "control_model.": "a ControlNet",
    "lora_": "a LoRA",
    "model.model.": "the k-diffusion upscaler",
    "down_blocks.": "a network with the names of diffusers; it belongs into a folder with its config.json",
    "encoder.down_blocks.": "an autoencoder with the names of diffusers; it belongs into a folder with its config.json",
    "text_model.": "a text encoder with the names of transformers; it belongs into a folder with its config.json",
}
"""Beginnings of names by which other files are known."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file holds.

    Attributes:
        family: sd1, sd2, sdxl, vae (a first stage alone) or dit.
        prefixes: Of the tensors of each component, by the folder that it becomes.
    """

    family: str
    prefixes: Mapping[str, str]


def detect(header: Mapping[str, TensorEntry]) -> Layout:
    """Recognise a single file.

    Whether a Stable Diffusion 2 predicts epsilon or v is not in its names and shapes.

    Args:
        header: Its tensors, as `safetensors_header.read_header` checked them.

    Raises:
        CheckpointError: It is another kind of file, which is named where it is known; or of no kind.
    """
    other = next(
        (what for start, what in _OTHERS.items() if any(name.startswith(start) for name in header)), None
    )
    if other is not None:
        raise CheckpointError(
            f"the file is {other}",
            [_known()],
            hint="fetch it as a diffusers folder where there is one",
        )
    if f"{UNET_PREFIX}input_blocks.0.0.weight" in header:
        return _pipeline(header)
    if all(name in header for name in DIT_NAMES):
        return Layout("dit", {"transformer": ""})
    for prefix in VAE_PREFIXES:
        if all(f"{prefix}{half}.conv_in.weight" in header for half in ("encoder", "decoder")):
            return Layout("vae", {"vae": prefix})
    raise CheckpointError(
        "the file is of no layout that is known",
        [_known(), f"its names begin with {', '.join(sorted(header)[:6]) or 'nothing: it is empty'}"],
    )


def _known() -> str:
    return "known are Stable Diffusion 1.x, 2.x and XL, their autoencoders, and DiT, each as its authors stored it"


def _pipeline(header: Mapping[str, TensorEntry]) -> Layout:
    held = {
        name: {
            folder: part.prefix
            for folder, part in family.text.items()
            if any(tensor.startswith(part.prefix) for tensor in header)
        }
        for name, family in FAMILIES.items()
    }
    families = [name for name, text in held.items() if text] or [_by_unet(header)]
    if len(families) > 1:
        raise CheckpointError(
            "the file holds text encoders of several families",
            [f"{name}: {', '.join(held[name].values())}" for name in families],
        )
    vae = {"vae": VAE_PREFIX} if f"{VAE_PREFIX}decoder.conv_in.weight" in header else {}
    return Layout(families[0], {"unet": UNET_PREFIX, **vae, **held[families[0]]})


def _by_unet(header: Mapping[str, TensorEntry]) -> str:
    """The family of a UNet without its text encoder: what it attends to tells."""
    name = f"{UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    shape = header[name].shape if name in header else ()
    for family, known in FAMILIES.items():
        if shape[1:] == (known.context,):
            return family
    known_widths = ", ".join(f"{family.context} ({name})" for name, family in FAMILIES.items())
    raise CheckpointError(
        "the file holds a UNet of no family that is known",
        [f"{name} is {list(shape) if shape else 'missing'}; the second size is {known_widths}"],
    )
