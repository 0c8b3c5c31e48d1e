"""The config that both halves of the codec share: the keys and defaults of diffusers' `AutoencoderKL`."""

from __future__ import annotations

from typing import Literal, Self, final

from pydantic import Field, field_validator, model_validator

from ldm_kl_vae.normalisation import Normalisation
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig, LatentSpace

DOWN_BLOCK, ATTENTION_DOWN_BLOCK = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
UP_BLOCK, ATTENTION_UP_BLOCK = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"
BLOCK_TYPES = {
    "down_block_types": (DOWN_BLOCK, ATTENTION_DOWN_BLOCK),
    "up_block_types": (UP_BLOCK, ATTENTION_UP_BLOCK),
}

OLD_PREFIX = "UNetRes"
"""An old prefix of block types, which diffusers takes off."""


@final
class KLVAEConfig(ComponentConfig):
    """Shape of the networks and scale of the latents of a KL autoencoder.

    `latent_std`, written `_latent_std`, is ours; diffusers passes over it. Some denoisers were trained on latents
    that their `scaling_factor` brings to another standard deviation than 1 (`sigma_data` of Karras et al. 2022);
    it is divided out, so that every denoiser sees unit variance.

    Raises:
        SpecError: The keys contradict one another or name a block that this codec does not have; every
            contradiction is listed.
    """

    in_channels: int = Field(3, ge=1, description="channels of the image that goes in, >= 1")
    out_channels: int = Field(3, ge=1, description="channels of the image that comes out, >= 1")
    down_block_types: tuple[str, ...] = Field(
        (DOWN_BLOCK,),
        min_length=1,
        description=f"{DOWN_BLOCK!r}, or {ATTENTION_DOWN_BLOCK!r} with attention, for each level, finest first",
    )
    up_block_types: tuple[str, ...] = Field(
        (UP_BLOCK,),
        min_length=1,
        description=f"{UP_BLOCK!r}, or {ATTENTION_UP_BLOCK!r} with attention, for each level, coarsest first",
    )
    block_out_channels: tuple[int, ...] = Field(
        (64,), min_length=1, description="width of each level, finest first; multiples of norm_num_groups"
    )
    layers_per_block: int = Field(
        1,
        ge=0,
        description="residual blocks a level in the encoder, >= 0; the decoder has one more. 0 keeps one width",
    )
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = Field(
        "silu", description="activation inside the residual blocks; the output layers always use silu"
    )
    latent_channels: int = Field(4, ge=1, description="channels of the latent, >= 1")
    norm_num_groups: int = Field(32, ge=1, description="groups of every group normalisation, >= 1")
    sample_size: int | tuple[int, int] = Field(
        32, description="side, or (height, width), of the training images in pixels; for information only"
    )
    scaling_factor: float = Field(0.18215, gt=0, description="factor from raw to normalised latents, > 0")
    shift_factor: float | None = Field(
        None, description="subtracted from raw latents before scaling; unused with latents_mean"
    )
    latents_mean: tuple[float, ...] | None = Field(
        None, description="mean of the raw latents, one for each latent channel; comes with latents_std"
    )
    latents_std: tuple[float, ...] | None = Field(
        None, description="standard deviation of the raw latents, one for each latent channel, > 0"
    )
    force_upcast: bool = Field(
        True, description="the activations may leave the range of float16: run in float32 or bfloat16"
    )
    use_quant_conv: bool = Field(True, description="a 1x1 convolution after the encoder network")
    use_post_quant_conv: bool = Field(True, description="a 1x1 convolution before the decoder network")
    mid_block_add_attention: bool = Field(True, description="self-attention at the coarsest level")
    latent_std: float = Field(
        1.0,
        gt=0,
        alias="_latent_std",
        description="standard deviation that the latents had in training after the scaling above, > 0; divided out",
    )

    @field_validator("act_fn", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("down_block_types", "up_block_types")
    @classmethod
    def _without_old_prefix(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.removeprefix(OLD_PREFIX) for name in types)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._block_problems(), *self._width_problems(), *self._statistics_problems()]
        if problems:
            raise SpecError("the config of a 'kl-vae' codec contradicts itself", problems)
        return self

    def _block_problems(self) -> list[str]:
        problems = []
        for key, known in BLOCK_TYPES.items():
            types: tuple[str, ...] = getattr(self, key)
            if len(types) != len(self.block_out_channels):
                problems.append(
                    f"{key}: got {len(types)} blocks, expected {len(self.block_out_channels)}, "
                    "one for each width in block_out_channels"
                )
            problems += [
                f"{key}: block type {name!r} is not built, expected {' or '.join(map(repr, known))}"
                for name in sorted(set(types) - set(known))
            ]
        return problems

    def _width_problems(self) -> list[str]:
        problems = [
            f"block_out_channels: got {width}, expected a positive multiple of norm_num_groups "
            f"({self.norm_num_groups})"
            for width in self.block_out_channels
            if width < 1 or width % self.norm_num_groups
        ]
        if self.layers_per_block == 0 and len(set(self.block_out_channels)) > 1:
            problems.append(
                f"layers_per_block: got 0 with widths {list(self.block_out_channels)}, expected at least 1, "
                "because only a residual block changes the width"
            )
        return problems

    def _statistics_problems(self) -> list[str]:
        problems = []
        if (self.latents_mean is None) != (self.latents_std is None):
            problems.append("latents_mean and latents_std: got one of the two, expected both or neither")
        for key in ("latents_mean", "latents_std"):
            values: tuple[float, ...] | None = getattr(self, key)
            if values is not None and len(values) != self.latent_channels:
                problems.append(
                    f"{key}: got {len(values)} values, expected {self.latent_channels}, "
                    "one for each latent channel"
                )
        if self.latents_std is not None and min(self.latents_std, default=1.0) <= 0:
            problems.append(f"latents_std: got {min(self.latents_std)}, expected values above 0")
        return problems

    @property
    def latent_space(self) -> LatentSpace:
        """Where the latents live: every level but the last halves the resolution."""
        return LatentSpace(self.latent_channels, 2 ** (len(self.block_out_channels) - 1))

    @property
    def normalisation(self) -> Normalisation:
        """The map between raw and normalised latents that these keys describe."""
        factor = self.scaling_factor / self.latent_std
        if self.latents_mean is None or self.latents_std is None:
            return Normalisation((self.shift_factor or 0.0,), (factor,))
        return Normalisation(self.latents_mean, tuple(factor / std for std in self.latents_std))
