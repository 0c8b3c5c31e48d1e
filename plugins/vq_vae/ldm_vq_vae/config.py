"""The config that both halves of the codec share: the keys and defaults of diffusers' `VQModel`, and ours."""

from __future__ import annotations

from typing import Literal, Self, final

from pydantic import Field, field_validator, model_validator

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig, LatentSpace
from ldm_vq_vae.normalisation import Normalisation

DOWN_BLOCK, ATTENTION_DOWN_BLOCK = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
UP_BLOCK, ATTENTION_UP_BLOCK = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"
BLOCK_TYPES = {
    "down_block_types": (DOWN_BLOCK, ATTENTION_DOWN_BLOCK),
    "up_block_types": (UP_BLOCK, ATTENTION_UP_BLOCK),
}

OLD_PREFIX = "UNetRes"
"""An old prefix of block types, which diffusers takes off."""

SPATIAL_NORM_GROUPS = 32
"""Groups of the normalisation inside a spatial norm; fixed in the architecture."""


@final
class VQVAEConfig(ComponentConfig):
    """Shape of the networks, the codebook, and scale of the latents of a vector-quantised autoencoder.

    Keys that begin with an underscore in `config.json` are ours; diffusers passes over them.

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
    latent_channels: int = Field(
        3, ge=1, description="channels on the network side of the 1x1 convolutions, >= 1"
    )
    sample_size: int | tuple[int, int] = Field(
        32, description="side, or (height, width), of the training images in pixels; for information only"
    )
    num_vq_embeddings: int = Field(256, ge=1, description="vectors in the codebook, >= 1")
    norm_num_groups: int = Field(32, ge=1, description="groups of every group normalisation, >= 1")
    vq_embed_dim: int | None = Field(
        None, ge=1, description="channels of the latent and of each code; latent_channels when missing"
    )
    scaling_factor: float = Field(
        0.18215, gt=0, description="factor from raw to normalised latents, > 0; unused with latents_mean"
    )
    norm_type: Literal["group", "spatial"] = Field(
        "group", description="normalisation in the decoder: plain, or modulated by the quantised latent"
    )
    mid_block_add_attention: bool = Field(True, description="self-attention at the coarsest level")
    lookup_from_codebook: bool = Field(
        False,
        description="made for denoisers of code indices; `decode` takes vectors and quantises either way",
    )
    force_upcast: bool = Field(
        False, description="the activations may leave the range of float16: run in float32 or bfloat16"
    )
    latents_mean: tuple[float, ...] | None = Field(
        None,
        alias="_latents_mean",
        description="mean of the raw latents, one for each latent channel; comes with latents_std",
    )
    latents_std: tuple[float, ...] | None = Field(
        None,
        alias="_latents_std",
        description="standard deviation of the raw latents, one for each latent channel, > 0",
    )
    codebook: Literal["gradient", "ema"] = Field(
        "gradient",
        alias="_codebook",
        description="how training moves the codes: by the codebook loss, or to the running mean of their vectors",
    )
    ema_decay: float = Field(
        0.99,
        gt=0,
        lt=1,
        alias="_ema_decay",
        description="decay of the running code statistics each step, in (0, 1)",
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
            raise SpecError("the config of a 'vq-vae' codec contradicts itself", problems)
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
        spatial = self.norm_type == "spatial"
        divisors = {"norm_num_groups": self.norm_num_groups}
        if spatial:
            divisors["the groups of a spatial norm"] = SPATIAL_NORM_GROUPS
        problems = [
            f"block_out_channels: got {width}, expected a positive multiple of {name} ({divisor})"
            for width in self.block_out_channels
            for name, divisor in divisors.items()
            if width < 1 or width % divisor
        ]
        if self.layers_per_block == 0 and len(set(self.block_out_channels)) > 1:
            problems.append(
                f"layers_per_block: got 0 with widths {list(self.block_out_channels)}, expected at least 1, "
                "because only a residual block changes the width"
            )
        if spatial and self.code_channels != self.latent_channels:
            problems.append(
                f"vq_embed_dim: got {self.code_channels}, expected latent_channels ({self.latent_channels}), "
                "because a spatial norm reads the quantised latent"
            )
        return problems

    def _statistics_problems(self) -> list[str]:
        problems = []
        if (self.latents_mean is None) != (self.latents_std is None):
            problems.append("latents_mean and latents_std: got one of the two, expected both or neither")
        for key in ("latents_mean", "latents_std"):
            values: tuple[float, ...] | None = getattr(self, key)
            if values is not None and len(values) != self.code_channels:
                problems.append(
                    f"{key}: got {len(values)} values, expected {self.code_channels}, one for each latent channel"
                )
        if self.latents_std is not None and min(self.latents_std, default=1.0) <= 0:
            problems.append(f"latents_std: got {min(self.latents_std)}, expected values above 0")
        return problems

    @property
    def code_channels(self) -> int:
        """Channels of the latent, and of each code."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim

    @property
    def latent_space(self) -> LatentSpace:
        """Where the latents live: every level but the last halves the resolution."""
        return LatentSpace(self.code_channels, 2 ** (len(self.block_out_channels) - 1))

    @property
    def normalisation(self) -> Normalisation:
        """The map between raw and normalised latents that these keys describe."""
        if self.latents_mean is None or self.latents_std is None:
            return Normalisation((0.0,), (self.scaling_factor,))
        return Normalisation(self.latents_mean, tuple(1.0 / std for std in self.latents_std))
