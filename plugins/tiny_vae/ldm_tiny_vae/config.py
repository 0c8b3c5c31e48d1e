"""The config that both halves of the codec share: the keys and defaults of diffusers' `AutoencoderTiny`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, final

from pydantic import Field, field_validator, model_validator

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig, LatentSpace

HALVES = {
    "encoder_block_out_channels": "num_encoder_blocks",
    "decoder_block_out_channels": "num_decoder_blocks",
}

DERIVED_KEY, SOURCE_KEY = "block_out_channels", "decoder_block_out_channels"
"""diffusers adds the first to every `config.json` that it writes, as a copy of the second."""


@final
class TinyVAEConfig(ComponentConfig):
    """Shape of the networks and scale of the latents of a tiny autoencoder.

    Raises:
        SpecError: The keys contradict one another; every contradiction is listed.
    """

    in_channels: int = Field(3, ge=1, description="channels of the image that goes in, >= 1")
    out_channels: int = Field(3, ge=1, description="channels of the image that comes out, >= 1")
    encoder_block_out_channels: tuple[int, ...] = Field(
        (64, 64, 64, 64),
        min_length=1,
        description="width of each level of the encoder, finest first; all equal",
    )
    decoder_block_out_channels: tuple[int, ...] = Field(
        (64, 64, 64, 64),
        min_length=1,
        description="width of each level of the decoder, coarsest first; all equal",
    )
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = Field(
        "relu", description="activation inside the residual blocks; each block ends in relu whatever it is"
    )
    upsample_fn: Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area"] = Field(
        "nearest", description="interpolation with which the decoder raises the resolution"
    )
    latent_channels: int = Field(4, ge=1, description="channels of the latent, >= 1")
    upsampling_scaling_factor: int = Field(
        2,
        ge=1,
        description="factor by which each level of the decoder but the last raises the resolution, >= 1",
    )
    num_encoder_blocks: tuple[int, ...] = Field(
        (1, 3, 3, 3),
        min_length=1,
        description="residual blocks of each level of the encoder, finest first, >= 0",
    )
    num_decoder_blocks: tuple[int, ...] = Field(
        (3, 3, 3, 1),
        min_length=1,
        description="residual blocks of each level of the decoder, coarsest first, >= 0",
    )
    latent_magnitude: float = Field(
        3.0,
        gt=0,
        description="half the range of raw latents when they are stored as bytes; for information only",
    )
    latent_shift: float = Field(
        0.5, description="where zero lies in that range, in [0, 1] units of it; for information only"
    )
    force_upcast: bool = Field(
        False, description="the activations may leave the range of float16: run in float32 or bfloat16"
    )
    scaling_factor: float = Field(1.0, gt=0, description="factor from raw to normalised latents, > 0")
    shift_factor: float = Field(0.0, description="subtracted from raw latents before scaling")

    @field_validator("act_fn", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [problem for widths, counts in HALVES.items() for problem in self._half(widths, counts)]
        if problems:
            raise SpecError("the config of a 'tiny-vae' codec contradicts itself", problems)
        return self

    def _half(self, widths_key: str, counts_key: str) -> list[str]:
        widths: tuple[int, ...] = getattr(self, widths_key)
        counts: tuple[int, ...] = getattr(self, counts_key)
        problems = []
        if len(widths) != len(counts):
            problems.append(
                f"{counts_key}: got {len(counts)} values, expected {len(widths)}, as {widths_key} has"
            )
        if len(set(widths)) > 1 or widths[0] < 1:
            problems.append(
                f"{widths_key}: got {list(widths)}, expected one positive width for all levels, because none of "
                "the layers changes it"
            )
        if min(counts) < 0:
            problems.append(f"{counts_key}: got {min(counts)}, expected values of at least 0")
        return problems

    @property
    def encoder_space(self) -> LatentSpace:
        """Where the encoder's latents live: every level but the first halves the resolution."""
        return LatentSpace(self.latent_channels, 2 ** (len(self.num_encoder_blocks) - 1))

    @property
    def decoder_space(self) -> LatentSpace:
        """Where the decoder's latents live; the two strides differ where the config makes them."""
        stride = self.upsampling_scaling_factor ** (len(self.num_decoder_blocks) - 1)
        return LatentSpace(self.latent_channels, int(stride))


def without_derived_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config in the keys of `TinyVAEConfig`.

    Raises:
        SpecError: The copy that diffusers adds does not equal its source.
    """
    kept = dict(values)
    if DERIVED_KEY not in kept:
        return kept
    copy = kept.pop(DERIVED_KEY)
    source = kept.get(SOURCE_KEY, TinyVAEConfig.model_fields[SOURCE_KEY].default)
    if not isinstance(copy, list | tuple) or list(copy) != list(source):
        raise SpecError(
            "the config of a 'tiny-vae' codec contradicts itself",
            [f"{DERIVED_KEY}: got {copy!r}, expected a copy of {SOURCE_KEY} ({source!r})"],
            f"remove {DERIVED_KEY}, which says nothing of its own",
        )
    return kept
