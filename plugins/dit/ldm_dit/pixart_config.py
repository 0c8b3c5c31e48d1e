"""The config of a PixArt transformer: the keys and defaults of diffusers' `PixArtTransformer2DModel`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from ldm_dit.transformer_config import TransformerConfig, not_among
from ldm_registry.errors import SpecError

NORM_TYPE = "ada_norm_single"
ATTENTION_TYPE = "default"
_CELLS_WITH_SIZE_CONDITIONS = 128
_CELLS_WITHOUT_ZOOM = 64


class PixArtConfig(TransformerConfig):
    """Sizes of a PixArt transformer. The width is `num_attention_heads * attention_head_dim`.

    Raises:
        SpecError: With every unsupported or contradictory value at once.
    """

    out_channels: int | None = Field(
        default=8,
        ge=1,
        description="channels put out: in_channels (also when null), or twice that with a learned variance",
    )
    sample_size: int = Field(
        default=128, ge=1, description="side of the latents trained on, cells; fixes the position grid"
    )
    num_embeds_ada_norm: int = Field(
        default=1000, description="without effect; kept because diffusers writes it"
    )
    norm_type: str = Field(
        default=NORM_TYPE, description="how time enters", json_schema_extra={"enum": [NORM_TYPE]}
    )
    norm_elementwise_affine: bool = Field(
        default=False, description="whether the two norms of a block have weights"
    )
    norm_eps: float = Field(default=1e-6, ge=0.0, description="epsilon of the two norms of a block")
    cross_attention_dim: int | None = Field(
        default=1152, ge=1, description="channels of the text that the blocks attend to; null: no text"
    )
    interpolation_scale: float | None = Field(
        default=None,
        gt=0.0,
        description="what the positions are divided by; null: sample_size / 64, rounded down, at least 1",
    )
    use_additional_conditions: bool | None = Field(
        default=None,
        description="whether resolution and aspect ratio are conditions; null: if sample_size is 128",
    )
    caption_channels: int | None = Field(
        default=None,
        ge=1,
        description="channels of the text embedding, projected to the width; null: cross_attention_dim",
    )
    attention_type: str | None = Field(
        default=ATTENTION_TYPE,
        description="null means the same",
        json_schema_extra={"enum": [ATTENTION_TYPE, None]},
    )

    @property
    def text_channels(self) -> int | None:
        """Channels of the text embedding; None where no text enters."""
        return None if self.cross_attention_dim is None else self.caption_channels or self.cross_attention_dim

    @property
    def sees_size(self) -> bool:
        """Whether resolution and aspect ratio are conditions."""
        if self.use_additional_conditions is None:
            return self.sample_size == _CELLS_WITH_SIZE_CONDITIONS
        return self.use_additional_conditions

    @property
    def zoom(self) -> float:
        """What the positions are divided by."""
        return float(self.interpolation_scale or max(self.sample_size // _CELLS_WITHOUT_ZOOM, 1))

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> PixArtConfig:
        problems = [*self.wrong_values(NORM_TYPE), *self._wrong_conditions()]
        if problems:
            raise SpecError("the config of denoiser 'pixart' is not valid", problems)
        return self

    def _wrong_conditions(self) -> Iterator[str]:
        if self.attention_type is not None:
            yield from not_among("attention_type", self.attention_type, (ATTENTION_TYPE,))
        projected = self.caption_channels is not None and self.cross_attention_dim is not None
        if projected and self.cross_attention_dim != self.width:
            yield (
                f"caption_channels projects the text to the width {self.width}, but cross_attention_dim is "
                f"{self.cross_attention_dim}"
            )
        if self.sees_size and self.width % 3:
            yield (
                f"the width {self.width} is not a multiple of 3: height, width and aspect ratio each get a third "
                "(use_additional_conditions)"
            )
