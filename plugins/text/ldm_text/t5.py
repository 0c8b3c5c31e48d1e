"""The conditioner `t5-text`: prompts to the embeddings that PixArt attends to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from ldm_registry.interfaces import Conditioner, Conditioning
from ldm_text.t5_config import ARCHITECTURES, T5TextConfig
from ldm_text.tokens import Tokens

VOCABULARY = (("tokenizer.json",), ("spiece.model",))
OURS = {name for name, field in T5TextConfig.model_fields.items() if field.alias}


@final
class T5Text(Conditioner):
    """The encoder of T5 (Raffel et al. 2020, section 2.1).

    The network is transformers' own; its tensors have the names that checkpoints give them.

    Args:
        config: Sizes, and how texts are prepared.
        tokenizer: Folder with `tokenizer.json` or `spiece.model`.

    Raises:
        LdmError: The tokenizer is missing, cannot be read or asks for code of its own.
    """

    name = "t5-text"
    Config = T5TextConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "d_model": 12,
        "d_kv": 5,
        "d_ff": 20,
        "num_layers": 2,
        "num_heads": 2,
    }
    diffusers_class = "T5EncoderModel"
    also_reads = ARCHITECTURES[1:]
    # Of a checkpoint that holds the whole of T5.
    sibling_prefixes = ("decoder.", "lm_head.")
    # A second name of `shared.weight`, which the encoder reads.
    ignored_tensors = (r"encoder\.embed_tokens\.weight",)
    config: T5TextConfig

    def __init__(self, config: T5TextConfig, tokenizer: Path | None) -> None:
        super().__init__()
        self.config = config
        self.tokens = Tokens(
            tokenizer, "T5Tokenizer", VOCABULARY, length=config.max_length, limit=None, component=self.name
        )
        self.inputs = (config.input,)
        self.outputs = {"text_embedding": Conditioning((config.max_length, config.d_model), torch.float32)}
        if config.mask:
            self.outputs["text_mask"] = Conditioning((config.max_length,), torch.bool)
        self.shared, self.encoder = _network(config)

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the keys that every config of transformers has and that change nothing here.

        Raises:
            SpecError: Values that make another network of it.
        """
        return T5TextConfig.adopt(values)

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            texts: B texts under the name that the config's `_input` says.
            size: Of no account.

        Returns:
            `text_embedding` [B, T, d_model], and `text_mask` [B, T], true for what is no padding, where the network
            is.

        Raises:
            CheckpointError: The tokenizer knows more tokens than the network.
        """
        ids, mask = self.tokens(self._prepared(texts))
        self.tokens.require_known(ids, self.config.vocab_size)
        device = self.shared.weight.device
        mask = mask.to(device)
        hidden = self.encoder(
            inputs_embeds=self.shared(ids.to(device)), attention_mask=mask if self.config.mask else None
        )
        outputs: dict[str, Tensor] = {"text_embedding": hidden.last_hidden_state}
        return outputs | ({"text_mask": mask} if self.config.mask else {})

    def cut(self, texts: Mapping[str, Sequence[str]]) -> list[str]:
        """What does not fit of each text into the tokens that it may have; empty where all of it does."""
        return self.tokens.cut(self._prepared(texts))

    def _prepared(self, texts: Mapping[str, Sequence[str]]) -> list[str]:
        given = texts[self.config.input]
        return [text.lower().strip() for text in given] if self.config.lower_case else list(given)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep what leaves a feed-forward layer in float32 when all else becomes float16, whose range it exceeds.

        transformers does the same when it loads T5 in float16.
        """
        outward = [
            module
            for name, module in self.named_modules()
            if name.endswith(".wo") and isinstance(module, nn.Linear)
        ]
        before = [linear.weight.detach() for linear in outward]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for linear, weight in zip(outward, before, strict=True):
            if linear.weight.dtype is torch.float16:
                kept = weight.to(linear.weight.device, torch.float32)
                linear.weight = nn.Parameter(kept, requires_grad=linear.weight.requires_grad)
        return self


def _network(config: T5TextConfig) -> tuple[nn.Embedding, Any]:
    """The token embeddings and the layers, which share no tensor so that each has one name."""
    transformers = import_module("transformers")
    values = config.model_dump(exclude={*OURS, "model_type", "architectures"}, exclude_none=True)
    network = transformers.T5EncoderModel(transformers.T5Config(**values))
    del network.encoder.embed_tokens
    return network.shared, network.encoder
