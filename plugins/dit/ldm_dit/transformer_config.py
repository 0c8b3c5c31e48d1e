"""The keys that the configs of both transformers share, and what becomes of those that neither has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.interfaces import ComponentConfig

ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")
INERT_KEYS: Mapping[str, tuple[object, ...]] = {
    "num_vector_embeds": (None,),
    "use_linear_projection": (False, True),
    "only_cross_attention": (False,),
    "double_self_attention": (False,),
}
"""Keys of diffusers' `Transformer2DModel` that say nothing about patches, with the values that change nothing."""


class TransformerConfig(ComponentConfig):
    """Sizes of a transformer over patches. The width is `num_attention_heads * attention_head_dim`."""

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
    norm_num_groups: int | None = Field(
        default=32, description="without effect; kept because diffusers writes it"
    )
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
    norm_type: str = Field(default="ada_norm_zero", description="how time and class enter")
    norm_elementwise_affine: bool = Field(
        default=False, description="whether the norm before the feed-forward has weights"
    )
    norm_eps: float = Field(default=1e-5, ge=0.0, description="epsilon of the norm before the feed-forward")

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

    def wrong_values(self, norm_type: str) -> Iterator[str]:
        """A sentence for each value that is not built, or contradicts another.

        Args:
            norm_type: The one that is built.
        """
        yield from not_among("norm_type", self.norm_type, (norm_type,))
        yield from not_among("activation_fn", self.activation_fn, ACTIVATIONS)
        if self.predicted_channels not in (self.in_channels, 2 * self.in_channels):
            yield (
                f"out_channels is {self.out_channels}; expected {self.in_channels}, "
                f"or {2 * self.in_channels} with a learned variance"
            )
        if self.width % 4:
            yield (
                f"the width {self.num_attention_heads} x {self.attention_head_dim} = {self.width} is not a "
                "multiple of 4, which the 2D position embedding needs"
            )
        if self.patch_size > self.sample_size:
            yield f"patch_size {self.patch_size} exceeds sample_size {self.sample_size}"


def not_among(key: str, word: str, choices: Sequence[str]) -> Iterator[str]:
    """A sentence if a word is not one of those that are built.

    Args:
        key: Of the config.
        word: Its value.
        choices: What is built.
    """
    if word not in choices:
        nearest = did_you_mean(word, choices)
        suggestion = f"; {nearest}" if nearest.startswith("did you") else ""
        yield f"{key} is {word!r}, which is not built; supported: {', '.join(choices)}{suggestion}"


def without_inert_keys(
    name: str, values: Mapping[str, Any], inert: Mapping[str, tuple[object, ...]]
) -> dict[str, Any]:
    """A stored config without the keys that have no say here.

    Args:
        name: Of the denoiser.
        values: The config.
        inert: Each such key, with the values that change nothing.

    Raises:
        SpecError: One of these keys has another value; all of them.
    """
    problems = [
        f"{key} is {values[key]!r}, which is not built; "
        f"supported: {', '.join('null' if value is None else repr(value) for value in accepted)}"
        for key, accepted in inert.items()
        if key in values and values[key] not in accepted
    ]
    if problems:
        raise SpecError(f"denoiser {name!r} cannot honour the stored config", problems)
    return {key: value for key, value in values.items() if key not in inert}
