"""The config of a CLIP text encoder: the keys and defaults of transformers' `CLIPTextConfig`, and some of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.interfaces import ComponentConfig
from ldm_text.activations import ACTIVATIONS
from ldm_text.idle_keys import without_idle

PROJECTED = "CLIPTextModelWithProjection"
ARCHITECTURES = ("CLIPTextModel", PROJECTED)
MODEL_TYPE = "clip_text_model"
# Written by transformers before 4.22; the text encoder has never had a dropout of its own.
IDLE = frozenset({"dropout"})
OTHER_MODELS = {"clip": "a text and an image encoder in one; take the folder of a text encoder by itself"}


class CLIPTextConfig(ComponentConfig):
    """Sizes of a CLIP text encoder, and which of its layers a denoiser gets to see.

    Raises:
        SpecError: With every unsupported value at once.
    """

    architectures: tuple[str, ...] = Field(
        default=("CLIPTextModel",),
        description="class of the network; CLIPTextModelWithProjection has a linear layer after the pooled output",
        json_schema_extra={"items": {"enum": list(ARCHITECTURES)}},
    )
    model_type: str = Field(default=MODEL_TYPE, description="always clip_text_model")
    vocab_size: int = Field(default=49408, ge=1, description="number of tokens")
    hidden_size: int = Field(default=512, ge=1, description="channels of the token stream")
    intermediate_size: int = Field(default=2048, ge=1, description="channels inside the feed-forward layers")
    projection_dim: int | None = Field(
        default=512, ge=1, description="channels of the projected pooled output; idle without a projection"
    )
    num_hidden_layers: int = Field(default=12, ge=1, description="transformer layers")
    num_attention_heads: int = Field(default=8, ge=1, description="attention heads in each layer")
    max_position_embeddings: int = Field(default=77, ge=2, description="tokens of the longest text")
    hidden_act: str = Field(
        default="quick_gelu",
        description="activation of the feed-forward layers",
        json_schema_extra={"enum": list(ACTIVATIONS)},
    )
    layer_norm_eps: float = Field(default=1e-5, gt=0, description="epsilon of the layer norms")
    attention_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="dropout of attention weights while training, [0, 1)"
    )
    initializer_range: float = Field(default=0.02, ge=0, description="standard deviation of fresh weights")
    initializer_factor: float = Field(default=1.0, ge=0, description="scale of fresh weights")
    pad_token_id: int | None = Field(default=1, description="without effect; the tokenizer pads")
    bos_token_id: int | None = Field(default=49406, description="without effect; the tokenizer begins texts")
    eos_token_id: int | None = Field(
        default=49407,
        description="token where the pooled output is read, at its first occurrence; 2, which old configs "
        "have by mistake, reads it at the largest token id instead",
    )
    use_attention_mask: bool = Field(
        default=False,
        description="whether padding is masked; diffusers heeds this key in the Stable Diffusion pipeline alone",
    )
    hidden_layer: int | None = Field(
        default=None,
        alias="_hidden_layer",
        description="which hidden state becomes `text_embedding`, 0 being the token embeddings and -1 the last "
        "layer's; null is the last one after the final norm, -2 what SDXL takes",
    )
    final_norm: bool = Field(
        default=False,
        alias="_final_norm",
        description="whether a `_hidden_layer` goes through the final norm, as `clip_skip` of Stable Diffusion does",
    )
    text_embedding: bool = Field(
        default=True, alias="_text_embedding", description="whether it gives `text_embedding`"
    )
    pooled: bool = Field(
        default=False,
        alias="_pooled",
        description="whether it gives `pooled_text_embedding`, projected where there is a projection",
    )
    zeros_for_empty: bool = Field(
        default=False,
        alias="_zeros_for_empty",
        description="whether the empty text is all zeros in place of its encoding, as SDXL's missing negative "
        "prompt; a text of one blank encodes the empty text all the same",
    )
    input: str = Field(
        default="prompt", alias="_input", min_length=1, description="which entry of `condition` it reads"
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        alias="_max_length",
        description="tokens of every text, padded or cut; null is the tokenizer's limit, at most "
        "max_position_embeddings",
    )

    @property
    def is_projected(self) -> bool:
        """Whether a linear layer follows the pooled output."""
        return PROJECTED in self.architectures

    @classmethod
    def adopt(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """A `config.json` of transformers in the keys of this class.

        Raises:
            SpecError: Values that make another network of it.
        """
        return without_idle(values, IDLE, "clip-text", OTHER_MODELS)

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> CLIPTextConfig:
        problems = [*self._network_problems(), *self._output_problems()]
        if problems:
            raise SpecError("the config of conditioner 'clip-text' is not valid", problems)
        return self

    def _network_problems(self) -> Iterator[str]:
        if len(self.architectures) != 1 or self.architectures[0] not in ARCHITECTURES:
            said = ", ".join(self.architectures)
            yield f"architectures is [{said}]; {did_you_mean(said, ARCHITECTURES)}"
        if self.model_type != MODEL_TYPE:
            yield f"model_type is {self.model_type!r}; supported is {MODEL_TYPE}"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; {did_you_mean(self.hidden_act, ACTIVATIONS)}"
        if self.hidden_size % self.num_attention_heads:
            yield f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} attention heads"
        if self.is_projected and self.projection_dim is None:
            yield f"projection_dim is missing, which {PROJECTED} needs"

    def _output_problems(self) -> Iterator[str]:
        last = self.num_hidden_layers
        if self.hidden_layer is not None and not -last - 1 <= self.hidden_layer <= last:
            yield f"_hidden_layer is {self.hidden_layer}; hidden states run from {-last - 1} to {last}"
        if self.final_norm and self.hidden_layer is None:
            yield "_final_norm is set without a _hidden_layer; the last hidden state is always normalised"
        if not (self.text_embedding or self.pooled):
            yield "neither _text_embedding nor _pooled is set, so it would give nothing"
        if self.pooled and self.eos_token_id is None:
            yield "eos_token_id is null, so nothing says where the pooled output is read"
        if self.max_length is not None and self.max_length > self.max_position_embeddings:
            yield f"_max_length {self.max_length} exceeds max_position_embeddings {self.max_position_embeddings}"
