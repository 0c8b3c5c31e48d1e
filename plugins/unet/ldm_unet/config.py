"""The config of a UNet: the keys and defaults of diffusers' `UNet2DModel`, and one of our own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field, model_validator

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig
from ldm_unet.stage_kind import DOWN_BLOCKS, UP_BLOCKS, default_groups

TIME_EMBEDDINGS = ("positional", "fourier", "learned")
RESAMPLINGS = ("conv", "resnet")
ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")
TIME_SHIFTS = ("default", "scale_shift")
MID_BLOCKS = ("UNetMidBlock2D",)
CLASS_EMBEDDINGS = ("timestep", "identity")


def _words(choices: Iterable[str]) -> dict[str, Any]:
    return {"enum": list(choices)}


class UNetConfig(ComponentConfig):
    """Sizes and flavours of a UNet.

    Raises:
        SpecError: With every unsupported or contradictory value at once.
    """

    sample_size: int | tuple[int, int] | None = Field(
        default=None, description="side of the latents trained on, cells; a note"
    )
    in_channels: int = Field(default=3, ge=1, description="channels of the latent (3 in pixel space)")
    out_channels: int = Field(
        default=3, ge=1, description="channels put out: in_channels, or twice that with a variance"
    )
    center_input_sample: bool = Field(
        default=False, description="whether the input is mapped from [0, 1] to [-1, 1] first"
    )
    time_embedding_type: str = Field(
        default="positional", description="how time is expanded", json_schema_extra=_words(TIME_EMBEDDINGS)
    )
    time_embedding_dim: int | None = Field(
        default=None, ge=0, description="channels of the time embedding; null means 4 * block_out_channels[0]"
    )
    freq_shift: int | float = Field(
        default=0, description="shift of the sinusoids' frequencies; 1 in the DDPM checkpoints"
    )
    flip_sin_to_cos: bool = Field(default=True, description="whether cosines come before sines")
    down_block_types: tuple[str, ...] = Field(
        default=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        min_length=1,
        description=f"a stage for each resolution, finest first: {', '.join(DOWN_BLOCKS)}",
    )
    mid_block_type: str | None = Field(
        default="UNetMidBlock2D", description="the bottleneck: UNetMidBlock2D, or null for none"
    )
    up_block_types: tuple[str, ...] = Field(
        default=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        min_length=1,
        description=f"a stage for each resolution, coarsest first: {', '.join(UP_BLOCKS)}",
    )
    block_out_channels: tuple[int, ...] = Field(
        default=(224, 448, 672, 896), min_length=1, description="channels of each resolution, finest first"
    )
    layers_per_block: int = Field(
        default=2, ge=1, description="residual blocks in each stage on the way down"
    )
    mid_block_scale_factor: float = Field(
        default=1.0, gt=0.0, description="what the bottleneck's residual sums are divided by"
    )
    downsample_padding: int = Field(
        default=1, ge=0, le=1, description="zeros around a downsampling's input; 0: right and below"
    )
    downsample_type: str = Field(
        default="conv", description="downsampling of AttnDownBlock2D", json_schema_extra=_words(RESAMPLINGS)
    )
    upsample_type: str = Field(
        default="conv", description="upsampling of AttnUpBlock2D", json_schema_extra=_words(RESAMPLINGS)
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="dropout probability while training, [0, 1)"
    )
    act_fn: str = Field(
        default="silu", description="activation of the residual blocks", json_schema_extra=_words(ACTIVATIONS)
    )
    attention_head_dim: int | None = Field(
        default=8, ge=1, description="channels of one attention head; null: a single head"
    )
    norm_num_groups: int | None = Field(
        default=32,
        ge=1,
        description="groups of the group norms, those of the Skip blocks excepted; null: a fourth of the channels",
    )
    attn_norm_num_groups: int | None = Field(
        default=None,
        ge=1,
        description="groups of the norm before the bottleneck's attention; null: norm_num_groups",
    )
    norm_eps: float = Field(default=1e-5, ge=0.0, description="epsilon of the group norms")
    resnet_time_scale_shift: str = Field(
        default="default",
        description="how time enters a residual block: added, or as scale and shift of the second norm",
        json_schema_extra=_words(TIME_SHIFTS),
    )
    add_attention: bool = Field(default=True, description="whether the bottleneck has an attention")
    class_embed_type: str | None = Field(
        default=None,
        description="how a class enters: null: a table of num_class_embeds, timestep: a number, identity: a vector",
    )
    num_class_embeds: int | None = Field(
        default=None, ge=1, description="rows of the class table, a null row included"
    )
    num_train_timesteps: int | None = Field(
        default=None, ge=1, description="rows of a learned time table, steps"
    )
    null_class: int | None = Field(
        default=None,
        ge=0,
        alias="_null_class",
        description="the label that stands for no class; null where none was trained",
    )

    @property
    def time_width(self) -> int:
        """Channels of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def learns_variance(self) -> bool:
        """Whether the second half of the output channels is a variance."""
        return self.out_channels == 2 * self.in_channels

    @property
    def has_class_table(self) -> bool:
        """Whether classes are rows of a table."""
        return self.class_embed_type is None and self.num_class_embeds is not None

    @property
    def bottleneck_norm_groups(self) -> int | None:
        """Groups of the norm before the bottleneck's attention; None where diffusers leaves the norm out."""
        if self.attn_norm_num_groups is not None:
            return self.attn_norm_num_groups
        if self.resnet_time_scale_shift != "default":
            return None
        return self.norm_num_groups or default_groups(self.block_out_channels[-1])

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> UNetConfig:
        # The checks are about this class and so import it.
        from ldm_unet.checks import problems

        found = list(problems(self))
        if found:
            raise SpecError("the config of denoiser 'unet' is not valid", found)
        return self
