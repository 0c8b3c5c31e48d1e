"""The components of a single file: config and table of each, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.original.autoencoder import autoencoder_config, autoencoder_pieces, plan_autoencoder
from ldm_registry.original.clip import (
    clip_config,
    clip_pieces,
    open_clip_pieces,
    plan_clip,
    plan_open_clip,
)
from ldm_registry.original.dit import HEADS, POSITIONS, DiTPlan, dit_config, dit_pieces
from ldm_registry.original.families import EMA_PREFIX, SCALINGS, UNET_PREFIX, Family, Scaling, TextPart
from ldm_registry.original.ldm_yaml import LdmYaml
from ldm_registry.original.pieces import Piece, Section, under
from ldm_registry.original.unet import plan_unet, unet_config, unet_pieces

UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "model.safetensors"
HEAD_CHANNELS = 64
UNDECIDED = ("attention_head_dim", "sample_size", "scaling_factor")
"""Keys that shapes do not decide, so that what a YAML says is taken."""


@dataclass(frozen=True, slots=True)
class Part:
    """One component folder.

    Attributes:
        folder: Its name.
        config: `config.json`.
        weights: Name of its weights.
        pieces: What goes in there, with the full names of the sources.
        unused: Beginnings of the names of its tensors that are left out.
    """

    folder: str
    config: Mapping[str, Any]
    weights: str
    pieces: tuple[Piece, ...]
    unused: tuple[str, ...] = ()


def unet_part(
    names: Section, family: Family, sample_size: int, heads: int | None, stated: LdmYaml | None, ema: bool
) -> Part:
    """The UNet of a pipeline.

    Args:
        names: Its tensors, without their prefix.
        family: Whose.
        sample_size: Side of the latents that it was trained on, cells.
        heads: Attention heads of every level; None asks the YAML, then the family.
        stated: A YAML that goes with the file.
        ema: Whether the averaged weights are taken.

    Raises:
        CheckpointError: It cannot be converted.
        SpecError: The number of heads is not known, or the YAML is that of another network.
    """
    plan = plan_unet(names)
    if plan.in_channels != 4 or plan.out_channels != 4:
        raise CheckpointError(
            "the UNet is none that can be converted",
            [f"it takes {plan.in_channels} channels and puts out {plan.out_channels}, expected 4 and 4"],
            hint="networks for inpainting, editing, depth and upscaling have further inputs; they are not built",
        )
    if (plan.added is not None) != (family.pipeline == "StableDiffusionXLPipeline"):
        raise CheckpointError(
            "the UNet is none that can be converted",
            ["label_emb: a pooled condition is built for Stable Diffusion XL, and needed there"],
        )
    said = dict(stated.unet or {}) if stated else {}
    said.pop("sample_size", None)  # The published YAMLs have 64 also where the images have 768 pixels.
    number: int | tuple[int, ...] = heads or said.get("attention_head_dim") or family.heads or 0
    if not number:
        _refuse_odd_heads(plan.widths)
        number = tuple(width // HEAD_CHANNELS for width in plan.widths)
    if heads:
        said.pop("attention_head_dim", None)
    number = number if isinstance(number, int) else tuple(number)
    config = {**unet_config(plan, number), "sample_size": sample_size}
    if not isinstance(family.heads, int):
        # Float16 does not hold the products of these networks' queries and keys; without effect elsewhere.
        config["upcast_attention"] = family.context == 1024
    config = _with_stated(config, said, "unet", stated)
    pieces = under(unet_pieces(plan), UNET_PREFIX)
    if not ema:
        return Part("unet", config, UNET_WEIGHTS, tuple(pieces))
    plain = tuple(piece.source for piece in pieces)
    return Part("unet", config, UNET_WEIGHTS, tuple(map(_averaged, pieces)), plain)


def _refuse_odd_heads(widths: tuple[int, ...]) -> None:
    odd = [width for width in widths if width % HEAD_CHANNELS]
    if odd:
        raise SpecError(
            "the number of attention heads is not known",
            [f"width {width} is not a multiple of {HEAD_CHANNELS}, the channels of a head" for width in odd],
            hint="give the YAML that the network was trained with, or the number of heads",
        )


def _averaged(piece: Piece) -> Piece:
    """The same piece of the average of the weights: without the first module's name, and without dots."""
    flat = piece.source.removeprefix("model.").replace(".", "")
    return replace(piece, source=EMA_PREFIX + flat)


def vae_part(
    names: Section,
    prefix: str,
    family: str | None,
    stored_scale: float | None,
    size: int | None,
    stated: LdmYaml | None,
) -> Part:
    """The autoencoder.

    Args:
        names: Its tensors, without their prefix.
        prefix: Of its tensors.
        family: Whose normalisation its latents have; None where the YAML or the file say.
        stored_scale: `scale_factor` as training measured it, where the file has it.
        size: Side of the images that it was trained on, pixels; None takes the family's.
        stated: A YAML that goes with the file.

    Raises:
        CheckpointError: It cannot be converted.
        SpecError: The normalisation is not known, or the YAML is that of another network.
    """
    plan = plan_autoencoder(names)
    config = autoencoder_config(plan)
    said = dict(stated.autoencoder) if stated else {}
    scaling = _scaling(plan.latent_channels, family, stored_scale or said.get("scaling_factor"))
    config.update(sample_size=size or scaling.size, scaling_factor=scaling.factor)
    if scaling.shift is not None:
        config["shift_factor"] = scaling.shift
    if stored_scale is not None:
        said.pop("scaling_factor", None)
    if stated is not None and stated.unet:
        said.pop("sample_size", None)
    config = _with_stated(config, said, "vae", stated)
    return Part("vae", config, UNET_WEIGHTS, tuple(under(autoencoder_pieces(plan), prefix)))


def _scaling(channels: int, family: str | None, known: float | None) -> Scaling:
    fitting = {name: scaling for name, scaling in SCALINGS.items() if scaling.channels == channels}
    if family in fitting:
        return fitting[family]
    if family is None and known is not None:
        return Scaling(channels, known, None, 256)
    choices = [
        f"{name}: scaling_factor {scaling.factor}"
        + (f", shift_factor {scaling.shift}" if scaling.shift else "")
        for name, scaling in fitting.items()
    ]
    what = "is not stated" if family is None else f"{family!a} has another number of latent channels"
    raise SpecError(
        f"the family of the autoencoder {what}; its shapes do not say how its latents are scaled",
        choices or [f"no family with {channels} latent channels is known"],
        hint=f"say which of {', '.join(fitting)} it belongs to"
        if fitting
        else "give the YAML of its pipeline",
    )


def text_part(names: Section, folder: str, part: TextPart, dtype: str, stated: LdmYaml | None) -> Part:
    """A text encoder of a pipeline.

    Args:
        names: Its tensors, without their prefix.
        folder: Its name in the pipeline.
        part: What the family says of it.
        dtype: Of its weights, in torch's words.
        stated: A YAML that goes with the file.

    Raises:
        CheckpointError: It cannot be converted.
        SpecError: The YAML is that of another encoder.
    """
    unused: tuple[str, ...] = ()
    if part.open_clip:
        plan, unused = plan_open_clip(names, projects=part.projects)
        pieces = open_clip_pieces(plan)
    else:
        plan = plan_clip(names)
        pieces = clip_pieces(plan)
    config = clip_config(plan, "gelu" if part.open_clip else "quick_gelu", part.projection)
    said = {
        key: value for key, value in ((stated.conditioner or {}) if stated else {}).items() if key[0] != "_"
    }
    config = {**_with_stated(config, said, folder, stated), "torch_dtype": dtype}
    return Part(
        folder,
        config,
        TEXT_WEIGHTS,
        tuple(under(pieces, part.prefix)),
        tuple(part.prefix + name for name in unused),
    )


def dit_part(plan: DiTPlan, heads: int | None, sample_size: int | None) -> Part:
    """A DiT.

    Args:
        plan: Its sizes.
        heads: Attention heads; None takes those of the published network of this width.
        sample_size: Side of the latents, cells; None reads it off the positions.

    Raises:
        SpecError: Heads or size are not known, or contradict the file.
    """
    known = heads or HEADS.get(plan.width)
    size = plan.side if plan.side is not None else sample_size
    problems = []
    if known is None:
        widths = ", ".join(f"{width}: {number}" for width, number in HEADS.items())
        problems.append(f"heads: width {plan.width} is none of the published networks ({widths})")
    elif plan.width % known:
        problems.append(f"heads: {known} does not divide the width, {plan.width}")
    if size is None:
        problems.append("sample_size: the file holds no pos_embed")
    elif sample_size not in (None, size):
        problems.append(f"sample_size: got {sample_size}, the file's pos_embed is for {size}")
    if problems or known is None or size is None:
        raise SpecError(
            "the DiT is not described by its weights alone", problems, hint="state what is missing"
        )
    return Part(
        "transformer", dit_config(plan, known, size), UNET_WEIGHTS, tuple(dit_pieces(plan)), (POSITIONS,)
    )


def _with_stated(
    derived: dict[str, Any], said: Mapping[str, Any], folder: str, stated: LdmYaml | None
) -> dict[str, Any]:
    """A config with what a YAML adds.

    Raises:
        SpecError: The YAML contradicts the shapes; all contradictions.
    """
    problems = [
        f"{folder}.{key}: the YAML says {value!r}, the file holds {derived.get(key)!r}"
        for key, value in said.items()
        if key not in UNDECIDED and derived.get(key) != value
    ]
    if problems and stated is not None:
        raise SpecError(f"{stated.path} is not the YAML of this file", problems)
    return {**derived, **{key: value for key, value in said.items() if key in UNDECIDED}}
