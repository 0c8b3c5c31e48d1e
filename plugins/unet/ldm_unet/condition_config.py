"""The config of a text-conditioned UNet: the keys and defaults of diffusers' `UNet2DConditionModel`, and two more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field, model_validator

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import ComponentConfig
from ldm_unet.condition_kind import (
    ACTIVATIONS,
    ADDED_EMBEDDINGS,
    ATTENTIONS,
    CLASS_EMBEDDINGS,
    CROSS_NORMS,
    DOWN_BLOCKS,
    MID_BLOCKS,
    TEXT_PROJECTIONS,
    TIME_EMBEDDINGS,
    TIME_SHIFTS,
    UP_BLOCKS,
)


def _words(choices: Iterable[str | None]) -> dict[str, Any]:
    return {"enum": list(choices)}


class UNetConditionConfig(ComponentConfig):
    """Sizes and flavours of a UNet that reads text.

    Raises:
        SpecError: With every unsupported or contradictory value at once.
    """

    sample_size: int | tuple[int, int] | None = Field(
        default=None, description="side of the latents trained on, cells; a note"
    )
    in_channels: int = Field(default=4, ge=1, description="channels of the latent")
    out_channels: int = Field(
        default=4, ge=1, description="channels put out: in_channels, or twice that with a variance"
    )
    center_input_sample: bool = Field(
        default=False, description="whether the input is mapped from [0, 1] to [-1, 1] first"
    )
    flip_sin_to_cos: bool = Field(default=True, description="whether cosines come before sines")
    freq_shift: int = Field(default=0, ge=0, description="shift of the sinusoids' frequencies")
    down_block_types: tuple[str, ...] = Field(
        default=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        min_length=1,
        description=f"a stage for each resolution, finest first: {', '.join(DOWN_BLOCKS)}",
    )
    mid_block_type: str | None = Field(
        default="UNetMidBlock2DCrossAttn",
        description=f"the bottleneck: {', '.join(MID_BLOCKS)}, or null for none",
    )
    up_block_types: tuple[str, ...] = Field(
        default=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        min_length=1,
        description=f"a stage for each resolution, coarsest first: {', '.join(UP_BLOCKS)}",
    )
    only_cross_attention: bool | tuple[bool, ...] = Field(
        default=False,
        description="whether transformers read text alone; one value, or one for each resolution",
    )
    block_out_channels: tuple[int, ...] = Field(
        default=(320, 640, 1280, 1280), min_length=1, description="channels of each resolution, finest first"
    )
    layers_per_block: int | tuple[int, ...] = Field(
        default=2,
        description="residual blocks in each stage on the way down; one value, or one for each resolution",
    )
    downsample_padding: int = Field(
        default=1, ge=0, le=1, description="zeros around a downsampling's input; 0: right and below"
    )
    mid_block_scale_factor: float = Field(
        default=1.0,
        gt=0.0,
        description="what the residual sums of the bottleneck's residual blocks are divided by",
    )
    dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="dropout probability of the residual blocks while training, [0, 1)",
    )
    act_fn: str = Field(
        default="silu", description="activation of the residual blocks", json_schema_extra=_words(ACTIVATIONS)
    )
    norm_num_groups: int | None = Field(
        default=32,
        ge=1,
        description="groups of the group norms; null is refused: no block that is built runs so",
    )
    norm_eps: float = Field(default=1e-5, gt=0.0, description="epsilon of the residual blocks' group norms")
    cross_attention_dim: int | tuple[int, ...] = Field(
        default=1280,
        description="channels of the text that attention reads; one value, or one for each resolution",
    )
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = Field(
        default=1,
        description="transformer blocks after a residual block; one value, one for each resolution, or one for each "
        "residual block of each resolution",
    )
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = Field(
        default=None, description="the same on the way up, coarsest first; null mirrors the way down"
    )
    encoder_hid_dim: int | None = Field(
        default=None, ge=1, description="channels of the text before a projection to cross_attention_dim"
    )
    encoder_hid_dim_type: str | None = Field(
        default=None,
        description="how text is projected; null means text_proj where encoder_hid_dim is set",
        json_schema_extra=_words((*TEXT_PROJECTIONS, None)),
    )
    attention_head_dim: int | tuple[int, ...] = Field(
        default=8,
        description="in CrossAttn blocks the number of heads (diffusers' name for it is wrong and kept), in Attn and "
        "SimpleCrossAttn blocks the channels of a head; one value, or one for each resolution",
    )
    num_attention_heads: int | tuple[int, ...] | None = Field(
        default=None, description="null: diffusers refuses any other value, see attention_head_dim"
    )
    dual_cross_attention: bool = Field(
        default=False, description="false: two transformers side by side are not built"
    )
    use_linear_projection: bool = Field(
        default=False, description="whether transformers project with linear layers, not 1 x 1 convolutions"
    )
    class_embed_type: str | None = Field(
        default=None,
        description="how a class enters: null: a table of num_class_embeds, timestep: a number, identity: a vector, "
        "projection and simple_projection: a vector through two layers or one",
        json_schema_extra=_words((*CLASS_EMBEDDINGS, None)),
    )
    addition_embed_type: str | None = Field(
        default=None,
        description="what is added to the time embedding: text: pooled text, text_time: a pooled text and sizes (SDXL)",
        json_schema_extra=_words((*ADDED_EMBEDDINGS, None)),
    )
    addition_time_embed_dim: int | None = Field(
        default=None, ge=2, description="sinusoids for each number of the sizes"
    )
    num_class_embeds: int | None = Field(
        default=None, ge=1, description="rows of the class table, a null row included"
    )
    upcast_attention: bool | None = Field(
        default=False,
        description="whether attention scores need float32; a note, for the attention kernels sum them so always",
    )
    resnet_time_scale_shift: str = Field(
        default="default",
        description="how time enters a residual block: added, or as scale and shift of the second norm",
        json_schema_extra=_words(TIME_SHIFTS),
    )
    resnet_skip_time_act: bool = Field(
        default=False,
        description="whether ResnetDownsample, ResnetUpsample and SimpleCrossAttn blocks take the time embedding "
        "without activating it",
    )
    resnet_out_scale_factor: float = Field(
        default=1.0,
        gt=0.0,
        description="what the residual sums of the same blocks are divided by on the way down and up",
    )
    time_embedding_type: str = Field(
        default="positional", description="how time is expanded", json_schema_extra=_words(TIME_EMBEDDINGS)
    )
    time_embedding_dim: int | None = Field(
        default=None,
        ge=1,
        description="channels of the time embedding; null: block_out_channels[0] times 4, or times 2 with fourier",
    )
    time_embedding_act_fn: str | None = Field(
        default=None,
        description="activation of the whole time embedding",
        json_schema_extra=_words((*ACTIVATIONS, None)),
    )
    timestep_post_act: str | None = Field(
        default=None,
        description="activation after the two layers that embed time",
        json_schema_extra=_words((*ACTIVATIONS, None)),
    )
    time_cond_proj_dim: int | None = Field(
        default=None, ge=1, description="channels of a vector that is projected onto the time features"
    )
    conv_in_kernel: int = Field(default=3, ge=1, description="side of the first convolution, cells, odd")
    conv_out_kernel: int = Field(default=3, ge=1, description="side of the last convolution, cells, odd")
    projection_class_embeddings_input_dim: int | None = Field(
        default=None,
        ge=1,
        description="channels of the class vector, or of pooled text and expanded sizes together",
    )
    attention_type: str = Field(
        default="default",
        description="sort of transformer block: gated ones (GLIGEN) are not built",
        json_schema_extra=_words(ATTENTIONS),
    )
    class_embeddings_concat: bool = Field(
        default=False, description="whether the class embedding is put beside the time embedding, not added"
    )
    mid_block_only_cross_attention: bool | None = Field(
        default=None,
        description="whether joint attention in the bottleneck reads text alone; null: as only_cross_attention",
    )
    cross_attention_norm: str | None = Field(
        default=None,
        description="norm of the text in SimpleCrossAttn blocks",
        json_schema_extra=_words((*CROSS_NORMS, None)),
    )
    addition_embed_type_num_heads: int = Field(
        default=64,
        ge=1,
        description="heads of the attention that pools the text with addition_embed_type text",
    )
    null_class: int | None = Field(
        default=None,
        ge=0,
        alias="_null_class",
        description="the label that stands for no class; null where none was trained",
    )
    size_numbers: int = Field(
        default=6,
        ge=1,
        alias="_size_numbers",
        description="numbers in size_and_crop: 6, or 5 in the SDXL refiner (height, width, top, left, aesthetic score)",
    )

    @property
    def time_dim(self) -> int:
        """Channels of the time embedding before a class embedding is put beside it."""
        factor = 2 if self.time_embedding_type == "fourier" else 4
        return self.time_embedding_dim or factor * self.block_out_channels[0]

    @property
    def block_time_dim(self) -> int:
        """Channels of the embedding that residual blocks take."""
        return 2 * self.time_dim if self.class_embeddings_concat else self.time_dim

    @property
    def groups(self) -> int:
        """Groups of the group norms; validation has seen to it that there is a number."""
        return self.norm_num_groups or 1

    @property
    def learns_variance(self) -> bool:
        """Whether the second half of the output channels is a variance."""
        return self.out_channels == 2 * self.in_channels

    @property
    def has_class_table(self) -> bool:
        """Whether classes are rows of a table."""
        return self.class_embed_type is None and self.num_class_embeds is not None

    @property
    def has_class(self) -> bool:
        """Whether a class enters at all."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> UNetConditionConfig:
        # The checks are about this class and so import it.
        from ldm_unet.condition_checks import problems

        found = [*problems(self)]
        if found:
            raise SpecError("the config of denoiser 'unet-condition' is not valid", found)
        return self
