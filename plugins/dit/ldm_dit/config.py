"""The config of a DiT: the keys and defaults of diffusers' `DiTTransformer2DModel`, and one of our own."""

from __future__ import annotations

from pydantic import Field, model_validator

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.interfaces import ComponentConfig

ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")
NORM_TYPES = ("ada_norm_zero",)


class DiTConfig(ComponentConfig):
    """Sizes of a DiT. The width is `num_attention_heads * attention_head_dim`.

    Raises:
        SpecError: With every unsupported value at once.
    """

    num_attention_heads: int = Field(default=16, ge=1, description="attention heads in each block")
    attention_head_dim: int = Field(default=72, ge=1, description="channels of one attention head")
    in_channels: int = Field(default=4, ge=1, description="channels of the latent (3 in pixel space)")
    out_channels: int | None = Field(
        default=None,
        ge=1,
        description="channels put out: in_channels (also when null), or twice that with a learned variance",
    )
    num_layers: int = Field(default=28, ge=1, description="transformer blocks")
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="dropout probability while training, [0, 1)"
    )
    norm_num_groups: int = Field(default=32, description="without effect; kept because diffusers writes it")
    attention_bias: bool = Field(default=True, description="whether query, key and value have a bias")
    sample_size: int = Field(
        default=32, ge=1, description="side of the latents trained on, cells; fixes the position grid"
    )
    patch_size: int = Field(default=2, ge=1, description="side of a patch, latent cells")
    activation_fn: str = Field(
        default="gelu-approximate",
        description="activation of the feed-forward layers",
        json_schema_extra={"enum": list(ACTIVATIONS)},
    )
    num_embeds_ada_norm: int = Field(
        default=1000, ge=1, description="number of classes; the label of this number is null"
    )
    upcast_attention: bool = Field(
        default=False, description="without effect on fused attention; kept for interchange"
    )
    norm_type: str = Field(
        default="ada_norm_zero",
        description="how time and class enter",
        json_schema_extra={"enum": list(NORM_TYPES)},
    )
    norm_elementwise_affine: bool = Field(
        default=False, description="whether the norm before the feed-forward has weights"
    )
    norm_eps: float = Field(default=1e-5, gt=0.0, description="epsilon of the norm before the feed-forward")
    time_freq_shift: float = Field(
        default=1.0,
        alias="_time_freq_shift",
        description="shift of the time embedding's frequencies: 1 as diffusers has it, 0 as the original DiT",
    )

    @property
    def width(self) -> int:
        """Channels of the token stream."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def predicted_channels(self) -> int:
        """Channels that the network puts out, a learned variance included."""
        return self.in_channels if self.out_channels is None else self.out_channels

    @property
    def learns_variance(self) -> bool:
        """Whether the second half of the output channels is a variance."""
        return self.predicted_channels == 2 * self.in_channels

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> DiTConfig:
        problems = []
        if self.norm_type not in NORM_TYPES:
            problems.append(f"norm_type is {self.norm_type!r}; {did_you_mean(self.norm_type, NORM_TYPES)}")
        if self.activation_fn not in ACTIVATIONS:
            problems.append(
                f"activation_fn is {self.activation_fn!r}; {did_you_mean(self.activation_fn, ACTIVATIONS)}"
            )
        if self.predicted_channels not in (self.in_channels, 2 * self.in_channels):
            problems.append(
                f"out_channels is {self.out_channels}; expected {self.in_channels}, "
                f"or {2 * self.in_channels} with a learned variance"
            )
        if self.width % 4:
            problems.append(
                f"the width {self.num_attention_heads} x {self.attention_head_dim} = {self.width} is not a multiple "
                "of 4, which the 2D position embedding needs"
            )
        if self.patch_size > self.sample_size:
            problems.append(f"patch_size {self.patch_size} exceeds sample_size {self.sample_size}")
        if problems:
            raise SpecError("the config of denoiser 'dit' is not valid", problems)
        return self
