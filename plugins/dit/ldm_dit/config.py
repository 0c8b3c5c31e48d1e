"""The config of a DiT: the keys and defaults of diffusers' `DiTTransformer2DModel`, and one of our own."""

from __future__ import annotations

from pydantic import Field, model_validator

from ldm_dit.transformer_config import TransformerConfig
from ldm_registry.errors import SpecError

NORM_TYPE = "ada_norm_zero"


class DiTConfig(TransformerConfig):
    """Sizes of a DiT. The width is `num_attention_heads * attention_head_dim`.

    Raises:
        SpecError: With every unsupported value at once.
    """

    norm_type: str = Field(
        default=NORM_TYPE, description="how time and class enter", json_schema_extra={"enum": [NORM_TYPE]}
    )
    time_freq_shift: float = Field(
        default=1.0,
        alias="_time_freq_shift",
        description="shift of the time embedding's frequencies: 1 as diffusers has it, 0 as the original DiT",
    )

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> DiTConfig:
        problems = list(self.wrong_values(NORM_TYPE))
        if problems:
            raise SpecError("the config of denoiser 'dit' is not valid", problems)
        return self
