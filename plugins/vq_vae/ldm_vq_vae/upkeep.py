"""What keeps a codebook alive in training: running means, and the restart of dead codes.

Uses no random numbers, so that a training that is resumed from `Upkeep.state` goes on to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from ldm_registry.errors import CheckpointError

DEAD_BELOW = 0.03
"""A code is dead when the running count of its vectors falls below this part of an even share."""

RESTARTED_AT = 0.1
"""The part of an even share that a restarted code is credited with, so that it has time to be chosen."""

USAGE_DECAY = 0.99
"""Decay of the running counts where the codebook learns by gradient."""


@final
class Upkeep:
    """Running statistics of each code. Not a module: they are no part of a checkpoint, and are never rounded.

    A code starts as if it had just been alive: one that the first batch does not choose is restarted at
    once, which spreads a fresh codebook over the data.

    Dead codes are restarted without random numbers. The vectors of the batch are ordered by their distance
    from their code, furthest first, equal distances by position. The dead codes, by rising index, go to the
    vectors at evenly spaced ranks in the first half of that order.

    Args:
        size: Number of codes.

    Attributes:
        count: Running number of vectors a batch, [size]; None until the first training step.
        total: Running sum of those vectors, [size, C]; None where the codes learn by gradient.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count: Tensor | None = None
        self.total: Tensor | None = None

    def follow_usage(self, counts: Tensor, decay: float = USAGE_DECAY) -> Tensor:
        """Update and return the running counts from those of a batch, [size]."""
        before = self._alive_at_first(counts) if self.count is None else self.count.to(counts)
        self.count = torch.lerp(counts, before, decay)
        return self.count

    def follow_means(self, weight: Tensor, counts: Tensor, sums: Tensor, decay: float) -> Tensor:
        """Move each code to the running mean of its vectors.

        `N <- decay N + (1 - decay) n`, `m <- decay m + (1 - decay) sum(z)`, `e = m / N` (van den Oord et al.
        2017, appendix A.1).

        Args:
            weight: The codes, [size, C].
            counts: n, vectors of this batch for each code, [size].
            sums: The sum of them, [size, C].
            decay: In (0, 1).

        Returns:
            The codes after the step, [size, C].
        """
        before = (
            self._alive_at_first(counts)[:, None] * weight if self.total is None else self.total.to(weight)
        )
        count = self.follow_usage(counts, decay)
        self.total = torch.lerp(sums, before, decay)
        # A count that has decayed to nothing says nothing about the mean; the code is restarted anyway.
        return torch.where(
            count[:, None] > torch.finfo(count.dtype).tiny, self.total / count[:, None], weight
        )

    def restart_dead(self, weight: Tensor, counts: Tensor, vectors: Tensor, codes: Tensor) -> Tensor:
        """Move the codes that have not been chosen for long onto vectors of the batch.

        Args:
            weight: The codes, [size, C].
            counts: Vectors of this batch for each code, [size].
            vectors: The batch, [N, C].
            codes: The code of each vector, [N].

        Returns:
            The codes after the step, [size, C].
        """
        if self.count is None:
            return weight
        share = len(vectors) / self.size
        dead = (self.count < DEAD_BELOW * share) & (counts == 0)
        distance = (vectors - weight[codes]).square().sum(dim=1)
        order = distance.argsort(descending=True, stable=True)
        half = (len(vectors) + 1) // 2
        rank = (dead.cumsum(0) - 1).clamp(min=0) * half // dead.sum().clamp(min=1)
        fresh = vectors[order[rank.clamp(max=half - 1)]]
        restarted = RESTARTED_AT * share
        self.count = self.count.masked_fill(dead, restarted)
        if self.total is not None:
            self.total = torch.where(dead[:, None], restarted * fresh, self.total)
        return torch.where(dead[:, None], fresh, weight)

    def state(self) -> dict[str, Tensor]:
        """Copies of the running statistics: `count` [size] and `total` [size, C], as far as they exist."""
        named = {"count": self.count, "total": self.total}
        return {name: value.clone() for name, value in named.items() if value is not None}

    def load(self, state: Mapping[str, Tensor], channels: int) -> None:
        """Take up what `state` gave.

        Args:
            state: From `state`.
            channels: Numbers in a code.

        Raises:
            CheckpointError: A name is unknown or a shape does not fit.
        """
        shapes = {"count": (self.size,), "total": (self.size, channels)}
        problems = [
            f"{name!r} is not a running statistic of a codebook" for name in sorted(set(state) - set(shapes))
        ]
        problems += [
            f"{name}: got shape {list(state[name].shape)}, expected {list(shape)}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ]
        if "total" in state and "count" not in state:
            problems.append("count: missing, though total is there")
        if problems:
            raise CheckpointError("the training state of the codebook does not fit", problems)
        self.count = state["count"].clone() if "count" in state else None
        self.total = state["total"].clone() if "total" in state else None

    def _alive_at_first(self, counts: Tensor) -> Tensor:
        return torch.full_like(counts, DEAD_BELOW) * counts.sum() / self.size
