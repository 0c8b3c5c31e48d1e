"""The config of a T5 encoder: the keys and defaults of transformers' `T5Config`, and some of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.interfaces import ComponentConfig
from ldm_text.activations import ACTIVATIONS
from ldm_text.idle_keys import without_idle

ARCHITECTURES = ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model", "T5WithLMHeadModel")
MODEL_TYPE = "t5"
IDLE = frozenset(
    {
        "classifier_dropout",
        "n_positions",
        "num_decoder_layers",
        "output_past",
        "scale_decoder_outputs",
    }
)
"""Of the decoder and of heads; and a length limit that relative positions do not have."""
OTHER_MODELS = {"umt5": "each of its layers has a position bias of its own, which is not supported"}


class T5TextConfig(ComponentConfig):
    """Sizes of a T5 encoder, and how its texts are prepared.

    Raises:
        SpecError: With every unsupported value at once.
    """

    architectures: tuple[str, ...] = Field(
        default=("T5EncoderModel",),
        description="class that the checkpoint was saved from; a decoder in it is left unread",
        json_schema_extra={"items": {"enum": list(ARCHITECTURES)}},
    )
    model_type: str = Field(default=MODEL_TYPE, description="always t5")
    vocab_size: int = Field(default=32128, ge=1, description="number of tokens")
    d_model: int = Field(default=512, ge=1, description="channels of the token stream")
    d_kv: int = Field(default=64, ge=1, description="channels of one attention head")
    d_ff: int = Field(default=2048, ge=1, description="channels inside the feed-forward layers")
    num_layers: int = Field(default=6, ge=1, description="transformer layers")
    num_heads: int = Field(default=8, ge=1, description="attention heads in each layer")
    relative_attention_num_buckets: int = Field(
        default=32, ge=4, description="classes of distance that have a position bias"
    )
    relative_attention_max_distance: int = Field(
        default=128, ge=1, description="distance from which on all are one class, tokens"
    )
    dropout_rate: float = Field(default=0.1, ge=0, lt=1, description="dropout while training, [0, 1)")
    layer_norm_epsilon: float = Field(default=1e-6, gt=0, description="epsilon of the layer norms")
    initializer_factor: float = Field(default=1.0, ge=0, description="scale of fresh weights")
    feed_forward_proj: str = Field(
        default="relu",
        description="activation of the feed-forward layers, after `gated-` where it gates a second projection; "
        "gated-gelu is the tanh approximation of GELU",
    )
    dense_act_fn: str | None = Field(
        default=None, description="activation; null is the one that feed_forward_proj says"
    )
    is_gated_act: bool | None = Field(
        default=None, description="whether a second projection is gated; null is what feed_forward_proj says"
    )
    is_decoder: bool = Field(default=False, description="always false")
    pad_token_id: int | None = Field(default=0, description="without effect; the tokenizer pads")
    eos_token_id: int | None = Field(default=1, description="without effect; the tokenizer ends texts")
    lower_case: bool = Field(
        default=True,
        alias="_lower_case",
        description="whether texts are put into lower case and stripped of outer blanks, as PixArt does",
    )
    mask: bool = Field(
        default=True,
        alias="_mask",
        description="whether padding is masked in the encoder and `text_mask` given for the denoiser",
    )
    input: str = Field(
        default="prompt", alias="_input", min_length=1, description="which entry of `condition` it reads"
    )
    max_length: int = Field(
        default=120,
        ge=1,
        alias="_max_length",
        description="tokens of every text, padded or cut: 120 for PixArt-alpha, 300 for PixArt-sigma",
    )

    @classmethod
    def adopt(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """A `config.json` of transformers in the keys of this class.

        Raises:
            SpecError: Values that make another network of it.
        """
        return without_idle(values, IDLE, "t5-text", OTHER_MODELS)

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> T5TextConfig:
        problems = list(self._problems())
        if problems:
            raise SpecError("the config of conditioner 't5-text' is not valid", problems)
        return self

    def _problems(self) -> Iterator[str]:
        if len(self.architectures) != 1 or self.architectures[0] not in ARCHITECTURES:
            said = ", ".join(self.architectures)
            yield f"architectures is [{said}]; {did_you_mean(said, ARCHITECTURES)}"
        if self.model_type != MODEL_TYPE:
            yield f"model_type is {self.model_type!r}; supported is {MODEL_TYPE}"
        activation = self.feed_forward_proj.removeprefix("gated-")
        if activation not in ACTIVATIONS:
            choices = [f"{gate}{name}" for name in ACTIVATIONS for gate in ("", "gated-")]
            yield f"feed_forward_proj is {self.feed_forward_proj!r}; {did_you_mean(self.feed_forward_proj, choices)}"
        if self.dense_act_fn is not None and self.dense_act_fn not in ACTIVATIONS:
            yield f"dense_act_fn is {self.dense_act_fn!r}; {did_you_mean(self.dense_act_fn, ACTIVATIONS)}"
        if self.is_decoder:
            yield "is_decoder is true; a decoder encodes no texts"
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 4:
            yield (
                f"relative_attention_max_distance {self.relative_attention_max_distance} is not beyond "
                f"the {self.relative_attention_num_buckets // 4} distances that have a class of their own"
            )
