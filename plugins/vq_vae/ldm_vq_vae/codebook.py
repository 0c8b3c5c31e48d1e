"""The codebook: finding the nearest code, and what training does to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_vq_vae.assignment import MAX_ELEMENTS, assignment_sums, code_counts
from ldm_vq_vae.upkeep import Upkeep


@final
@dataclass(frozen=True, slots=True)
class Quantised:
    """A batch of latents and the codes that replace it.

    Attributes:
        vectors: [B h w, C], the latents as rows, at least float32.
        codes: int64 [B h w], the index of the nearest code of each row.
        replaced: [B, C, h, w], the codes themselves; differentiable in the codebook where that learns by
            gradient.
    """

    vectors: Tensor
    codes: Tensor
    replaced: Tensor


@final
class Codebook(nn.Module):
    """`size` vectors of `channels` numbers.

    Args:
        size: Number of codes.
        channels: Numbers in each.
        ema_decay: Decay of the running means that the codes follow; None where the codes learn by gradient.
    """

    def __init__(self, size: int, channels: int, ema_decay: float | None) -> None:
        super().__init__()
        self.ema_decay = ema_decay
        self.embedding = nn.Embedding(size, channels)
        nn.init.uniform_(self.embedding.weight, -1.0 / size, 1.0 / size)
        self.embedding.weight.requires_grad_(ema_decay is None)
        self.upkeep = Upkeep(size)

    def forward(self, latent: Tensor) -> Quantised:
        """Replace every vector of a raw latent [B, C, h, w] by its nearest code."""
        rows = latent.permute(0, 2, 3, 1)
        vectors = rows.reshape(-1, rows.shape[-1]).to(torch.promote_types(latent.dtype, torch.float32))
        codes = self.nearest(vectors)
        return Quantised(vectors, codes, self.lookup(codes.view(rows.shape[:3])))

    def lookup(self, codes: Tensor) -> Tensor:
        """The codes [B, C, h, w] at indices int64 [B, h, w]."""
        return functional.embedding(codes, self.embedding.weight).permute(0, 3, 1, 2)

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest code, by Euclidean distance, of each row of [N, C], int64 [N].

        Equal distances go to the lowest index.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            weight = self.embedding.weight.to(vectors.dtype)
            # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 does not bear on which code is nearest. Both are
            # taken from the centre of the codebook, so that a large common offset costs no digits.
            centre = weight.mean(dim=0)
            codes = weight - centre
            squares = codes.square().sum(dim=1)
            step = max(1, MAX_ELEMENTS // len(codes))
            slices = [
                torch.addmm(squares, part - centre, codes.T, alpha=-2.0).argmin(dim=1)
                for part in torch.split(vectors, step)
            ]
        return slices[0] if len(slices) == 1 else torch.cat(slices)

    @torch.no_grad()
    def learn(self, quantised: Quantised) -> Tensor:
        """Count the codes of a batch and, in training mode, move the codebook by what does not need a gradient.

        That is the running mean of the vectors that each code replaced (van den Oord et al. 2017, appendix
        A.1), where the codebook learns so, and the restart of dead codes (`Upkeep`) in any case.

        Returns:
            How many vectors each code replaced, [size].
        """
        vectors, codes = quantised.vectors.detach(), quantised.codes
        weight = self.embedding.weight
        counts = code_counts(codes, len(weight), vectors.dtype)
        if self.training:
            with torch.autocast(vectors.device.type, enabled=False):
                moved = weight.to(vectors.dtype)
                if self.ema_decay is None:
                    self.upkeep.follow_usage(counts)
                else:
                    sums = assignment_sums(vectors, codes, len(weight))
                    moved = self.upkeep.follow_means(moved, counts, sums, self.ema_decay)
                weight.copy_(self.upkeep.restart_dead(moved, counts, vectors, codes))
        return counts
