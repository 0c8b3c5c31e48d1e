"""The conditioner `hashed-trigrams`: a text embedding without weights, tokenizer or training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final
from zlib import crc32

import torch
from ldm_registry.interfaces import ComponentConfig, Conditioner, Conditioning
from pydantic import Field
from torch import Tensor


class ConditionerConfig(ComponentConfig):
    """How the text is cut and counted."""

    width: int = Field(default=64, ge=1, description="Channels of the embedding.")
    letters: int = Field(default=3, ge=1, description="Length of the pieces that are counted.")


@final
class HashedTrigramsConditioner(Conditioner):
    """Counts of hashed pieces of the prompt, of length 1 (Weinberger et al. 2009); the empty text is zero."""

    name = "hashed-trigrams"
    Config = ConditionerConfig
    config: ConditionerConfig
    inputs = ("prompt",)

    def __init__(self, config: ConditionerConfig, tokenizer: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.outputs = {"pooled_text_embedding": Conditioning((config.width,), torch.float32)}

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        """`pooled_text_embedding`, float32 [B, width], of B prompts; the image's size is of no account."""
        rows = [self._counts(text) for text in texts["prompt"]]
        counts = torch.tensor(rows, dtype=torch.float32, device="cpu")
        return {"pooled_text_embedding": torch.nn.functional.normalize(counts, dim=1)}

    def _counts(self, text: str) -> list[float]:
        counts = [0.0] * self.config.width
        words = " ".join(text.lower().split())
        padded = f" {words} " if words else ""
        for start in range(max(0, len(padded) - self.config.letters + 1)):
            # Python's own hash differs from one process to the next.
            hashed = crc32(padded[start : start + self.config.letters].encode())
            # Signs keep collisions from adding up.
            counts[hashed % self.config.width] += 1.0 if hashed & 0x8000_0000 else -1.0
        return counts
