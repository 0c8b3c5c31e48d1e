"""Keys that transformers writes into every model's config and that change nothing in a text encoder's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_registry.errors import SpecError

GENERATION = frozenset(
    {
        "bad_words_ids",
        "begin_suppress_tokens",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "use_cache",
    }
)
"""How a language model writes text; nothing here writes any."""
BOOKKEEPING = frozenset(
    {
        "attn_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "prefix",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_bfloat16",
    }
)
"""What a file was written with, how outputs are wrapped, and heads that a text encoder has not got."""
WRITTEN_BY = "transformers_version"
AMBIGUOUS = "max_length"
"""Of generated texts in a file of transformers, which says its version; of prompts in a `config:` block of ours."""
REFUSED_UNLESS_EMPTY = ("pruned_heads", "add_cross_attention", "cross_attention_hidden_size")
"""They are in every old config, idle as long as they are empty, and another network otherwise."""


def without_idle(
    values: Mapping[str, Any], also: frozenset[str], component: str, model_types: Mapping[str, str]
) -> dict[str, Any]:
    """A config of transformers without the keys that have no say in a text encoder's output.

    Args:
        values: The config.
        also: Further keys that are idle in this class.
        component: Named in errors.
        model_types: What other values of `model_type` are, for the error.

    Raises:
        SpecError: A key that is idle only when it is empty is not, or the config is of another kind of model.
    """
    problems = [
        f"{key} is {values[key]!r}; supported is only an empty one"
        for key in REFUSED_UNLESS_EMPTY
        if values.get(key)
    ]
    if values.get("model_type") in model_types:
        problems.append(f"model_type is {values['model_type']!r}: {model_types[values['model_type']]}")
    if problems:
        raise SpecError(f"the config of conditioner {component!r} is not valid", problems)
    idle = GENERATION | BOOKKEEPING | also | set(REFUSED_UNLESS_EMPTY)
    if WRITTEN_BY in values:
        idle |= {AMBIGUOUS}
    return {
        key: value
        for key, value in values.items()
        if key not in idle and not (key == "architectures" and value is None)
    }
