"""Which sizes and batches are measured, and how much time goes where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from ldm_registry.costs.part_calls import Case
from ldm_registry.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured, and for how long.

    Attributes:
        name: In a word.
        scales: Times each side of the spec's images.
        batches: Times the batch that was asked for.
        part_s: For the times of one part; half of it at other sizes and batches than those that were asked for.
        ceiling_s: For the best rates of one device and type.
        run_s: For whole runs.
        longest_run_ms: A run that is expected to take longer is left out.
    """

    name: str
    scales: tuple[float, ...]
    batches: tuple[int, ...]
    part_s: float
    ceiling_s: float
    run_s: float
    longest_run_ms: float


THOROUGH = Effort("thorough", (0.5, 1.0, 2.0), (1, 2, 4), 0.6, 1.5, 4.0, float("inf"))
QUICK = Effort("quick", (0.5, 1.0), (1, 2), 0.15, 0.5, 1.0, 5_000.0)


@dataclass(frozen=True, slots=True)
class Series:
    """What is measured.

    Attributes:
        asked: What the costs are of.
        by_size: Over which growth with the size is measured, the smallest first.
        by_batch: Over which growth with the batch is measured, the smallest first.
    """

    asked: Case
    by_size: tuple[Case, ...]
    by_batch: tuple[Case, ...]

    @classmethod
    def of(cls, pipe: Pipeline, batch: int, sizes: Sequence[tuple[int, int]] | None, effort: Effort) -> Self:
        """Around the size of a pipeline's spec.

        Args:
            pipe: The pipeline.
            batch: Images at once.
            sizes: (height, width), pixels; None takes the effort's.
            effort: Gives sizes and batches.
        """
        image = pipe.spec.image
        asked = Case(batch, image.height, image.width)
        cell = pipe.encoder.latent_space.stride * pipe.denoiser.size_multiple
        sides = [
            (_multiple(image.height * scale, cell), _multiple(image.width * scale, cell))
            for scale in effort.scales
        ]
        by_size = {Case(batch, *size) for size in (sides if sizes is None else sizes)}
        return cls(
            asked,
            tuple(sorted(by_size, key=lambda case: case.pixels)),
            tuple(replace(asked, batch=batch * times) for times in effort.batches),
        )

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them, each once, beginning with what was asked for."""
        return tuple(dict.fromkeys((self.asked, *self.by_size, *self.by_batch)))


def _multiple(side: float, cell: int) -> int:
    return max(round(side / cell), 1) * cell
