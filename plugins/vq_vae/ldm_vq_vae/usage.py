"""How well a codebook is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ldm_vq_vae.assignment import code_counts, perplexity
from ldm_vq_vae.decoder import VQDecoder


@final
@dataclass(frozen=True, slots=True)
class CodebookUsage:
    """Figures over a set of latents.

    Attributes:
        perplexity: `exp` of the entropy of the codes, from 1 (one code does it all) to the codebook's size
            (all are used alike).
        dead_codes: Codes that no vector chose.
        mean_distance: Mean Euclidean distance from a vector to its code, in raw latent units.
    """

    perplexity: float
    dead_codes: int
    mean_distance: float


@torch.no_grad()
def codebook_usage(decoder: VQDecoder, latents: Tensor) -> CodebookUsage:
    """Measure how a decoder's codebook covers a set of latents.

    Args:
        decoder: Any `vq-vae` decoder; it is not changed.
        latents: Normalised latents [N, C, h, w], on the decoder's device.
    """
    codebook = decoder.quantize
    vectors = decoder.raw(latents).permute(0, 2, 3, 1).flatten(0, 2)
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    codes = codebook.nearest(vectors)
    weight = codebook.embedding.weight.to(vectors.dtype)
    counts = code_counts(codes, len(weight), torch.float64)
    return CodebookUsage(
        perplexity=float(perplexity(counts)),
        dead_codes=int((counts == 0).sum()),
        mean_distance=float((vectors - weight[codes]).norm(dim=1).mean()),
    )
