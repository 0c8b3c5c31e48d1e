"""Whether a sampler that misses known data would reach them with more steps: too few are no fault of its own."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import pairwise

from ldm_registry.assembly import planned
from ldm_registry.diagnostics.sampler_outcome import Outcome, distances
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import Scheduler
from ldm_registry.pipeline import Pipeline
from ldm_registry.spec import swap
from ldm_registry.vocabulary import Kind

FACTORS = (2, 4)
STEPS = "steps"
LEAST_ORDER = 0.5
"""Samplers in use are of first order at least, as the steps become many; a half leaves room for few."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """How far samples of known data lie from them, the more steps there are.

    Attributes:
        steps: Doubling.
        distances: In stds of the data, one for each; 0 is exact.
    """

    steps: tuple[int, ...]
    distances: tuple[float, ...]

    @property
    def order(self) -> float:
        """Of the distance in the step width: the mean of `log2` of what doubling the steps divides it by."""
        ratios = [
            math.log2(max(coarse, 1e-12) / max(fine, 1e-12)) for coarse, fine in pairwise(self.distances)
        ]
        return sum(ratios) / len(ratios)

    @property
    def is_convergent(self) -> bool:
        """Whether the distance vanishes with the step width."""
        return self.order >= LEAST_ORDER and self.distances[-1] < self.distances[0]


def convergence(pipe: Pipeline, found: Outcome, name: str, *, extent: float, seed: int) -> Convergence | None:
    """The same sampler over more and more steps; None where the number of steps is not a setting of it.

    Args:
        pipe: Whose sampler it is.
        found: With the steps that it has.
        name: Of the known data.
        extent: As for `examine`.
        seed: As for `examine`.
    """
    steps = getattr(pipe.scheduler.config, STEPS, None)
    if not isinstance(steps, int):
        return None
    counts, values = [steps], [found.distances[name][0]]
    for factor in FACTORS:
        try:
            finer = with_steps(pipe, steps * factor)
            apart, _ = distances(
                finer, finer.levels(), extent, seed, eta=1.0 if found.is_stochastic else 0.0
            )[name]
        except (LdmError, RuntimeError, ValueError, ArithmeticError):
            break  # a schedule of 1000 steps has no 2000
        counts.append(steps * factor)
        values.append(apart)
    return Convergence(tuple(counts), tuple(values)) if len(counts) > 1 else None


def with_steps(pipe: Pipeline, steps: int) -> Scheduler:
    """The pipeline's own sampler, whatever was done to it, over another number of steps.

    Args:
        pipe: Left as it is.
        steps: How many.

    Raises:
        LdmError: Its schedule has not so many.
    """
    spec = swap(pipe.spec, scheduler_config={STEPS: steps})
    fresh = planned(spec).stages[Kind.SCHEDULER].materialise(spec.scheduler, init_seed=0)
    finer = copy.copy(pipe.scheduler)
    finer.__dict__ = {**pipe.scheduler.__dict__, **fresh.__dict__}
    return finer
