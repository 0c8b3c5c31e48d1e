"""The conditioner `clip-text`: prompts to the embeddings that Stable Diffusion and its successors attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from ldm_registry.interfaces import Conditioner, Conditioning
from ldm_text.clip_config import CLIPTextConfig
from ldm_text.tokens import Tokens

VOCABULARY = (("tokenizer.json",), ("vocab.json", "merges.txt"))
OURS = {name for name, field in CLIPTextConfig.model_fields.items() if field.alias}


@final
class CLIPText(Conditioner):
    """The text half of CLIP (Radford et al. 2021, section 2.4), with or without its projection.

    The network is transformers' own; its tensors have the names that checkpoints give them.

    Args:
        config: Sizes, and which layer is put out.
        tokenizer: Folder with `vocab.json` and `merges.txt`, or `tokenizer.json`.

    Raises:
        LdmError: The tokenizer is missing, cannot be read or asks for code of its own.
    """

    name = "clip-text"
    Config = CLIPTextConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 12,
        "intermediate_size": 20,
        "projection_dim": 7,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    diffusers_class = "CLIPTextModel"
    also_reads = ("CLIPTextModelWithProjection",)
    # transformers 5 leaves out the prefix when it saves a network without a projection.
    renamed_tensors = ((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),)
    ignored_tensors = (r"(text_model\.)?embeddings\.position_ids",)
    config: CLIPTextConfig

    def __init__(self, config: CLIPTextConfig, tokenizer: Path | None) -> None:
        super().__init__()
        self.config = config
        self.tokens = Tokens(
            tokenizer,
            "CLIPTokenizer",
            VOCABULARY,
            length=config.max_length,
            limit=config.max_position_embeddings,
            component=self.name,
        )
        self.inputs = (config.input,)
        self.outputs = self._outputs()
        self.text_model = _network(config)
        if config.is_projected and config.projection_dim is not None:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the keys that every config of transformers has and that change nothing here.

        Raises:
            SpecError: Values that make another network of it.
        """
        return CLIPTextConfig.adopt(values)

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            texts: B texts under the name that the config's `_input` says.
            size: Of no account.

        Returns:
            `text_embedding` [B, T, hidden_size] and `pooled_text_embedding` [B, C], as far as the config asks for
            them, where the network is.

        Raises:
            CheckpointError: The tokenizer knows more tokens than the network.
        """
        prompts = texts[self.config.input]
        ids, mask = self.tokens(prompts)
        self.tokens.require_known(ids, self.config.vocab_size)
        device = self.text_model.final_layer_norm.weight.device
        hidden = self.text_model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device) if self.config.use_attention_mask else None,
            output_hidden_states=self.config.hidden_layer is not None,
        )
        outputs = {}
        if self.config.text_embedding:
            outputs["text_embedding"] = self._layer(hidden)
        if self.config.pooled:
            pooled = hidden.pooler_output
            outputs["pooled_text_embedding"] = (
                self.text_projection(pooled) if self.config.is_projected else pooled
            )
        return self._emptied(outputs, prompts)

    def cut(self, texts: Mapping[str, Sequence[str]]) -> list[str]:
        """What does not fit of each text into the tokens that it may have; empty where all of it does."""
        return self.tokens.cut(texts[self.config.input])

    def _layer(self, hidden: Any) -> Tensor:
        if self.config.hidden_layer is None:
            last: Tensor = hidden.last_hidden_state
            return last
        state: Tensor = hidden.hidden_states[self.config.hidden_layer]
        if self.config.final_norm:
            state = self.text_model.final_layer_norm(state)
        return state

    def _emptied(self, outputs: dict[str, Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
        if not self.config.zeros_for_empty or all(prompts):
            return outputs
        empty = torch.tensor([not prompt for prompt in prompts])
        return {
            name: output.masked_fill(empty.to(output.device).view(-1, *[1] * (output.ndim - 1)), 0)
            for name, output in outputs.items()
        }

    def _outputs(self) -> dict[str, Conditioning]:
        outputs = {}
        if self.config.text_embedding:
            shape = (self.tokens.length, self.config.hidden_size)
            outputs["text_embedding"] = Conditioning(shape, torch.float32)
        if self.config.pooled:
            width = self.config.projection_dim if self.config.is_projected else self.config.hidden_size
            outputs["pooled_text_embedding"] = Conditioning((width,), torch.float32)
        return outputs


def _network(config: CLIPTextConfig) -> Any:
    transformers = import_module("transformers")
    keys = transformers.CLIPTextConfig(**config.model_dump(exclude={*OURS, "model_type", "architectures"}))
    network = transformers.CLIPTextModel(keys)
    # A table that no checkpoint holds, so it needs memory even where the network is built without.
    positions = torch.arange(config.max_position_embeddings, device="cpu")
    network.embeddings.position_ids = positions.expand(1, -1)
    return network
