"""What `ldm bench` finds, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ldm_registry.costs.ceiling import Ceiling
from ldm_registry.costs.growth import exponent
from ldm_registry.costs.machine import Machine
from ldm_registry.costs.operations import Work
from ldm_registry.costs.part_calls import Case
from ldm_registry.costs.repeated import Memory, Times
from ldm_registry.vocabulary import Kind

LEAST_MEMORY_MIB = 8.0
"""Less drowns in pages that come and go for other reasons."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call, or of one step of a sampler.

    Attributes:
        times: How long it takes.
        memory: How much it holds; None where nothing tells.
        work: What has to be done in it.
        stated_mib: What the part said in advance that it would take; None where it says nothing.
    """

    times: Times
    memory: Memory | None
    work: Work
    stated_mib: float | None = None


Measure = Callable[[Cost], float]
MEASURES: Mapping[str, Measure] = {
    "flops": lambda cost: float(cost.work.flops),
    "moved_bytes": lambda cost: float(cost.work.moved_bytes),
    "time": lambda cost: cost.times.median_ms,
    "working_memory": lambda cost: cost.memory.working_mib if cost.memory else 0.0,
}
"""Of what an exponent is fitted, by name."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One part over several sizes or batches.

    Attributes:
        points: What was measured.
        refused: Why not, where the part refuses.
    """

    points: tuple[tuple[Case, Cost], ...] = ()
    refused: tuple[tuple[Case, str], ...] = ()

    def exponents(self, extent: Callable[[Case], float]) -> dict[str, float | None]:
        """By name in `MEASURES`; None where there is nothing to fit.

        Args:
            extent: Against what: pixels or batch.
        """
        found = {
            name: exponent((extent(case), measure(cost)) for case, cost in self.points)
            for name, measure in MEASURES.items()
        }
        if any(MEASURES["working_memory"](cost) < LEAST_MEMORY_MIB for _, cost in self.points):
            found["working_memory"] = None
        return found


@dataclass(frozen=True, slots=True)
class PartCost:
    """One part.

    Attributes:
        name: `encoder`, `denoiser`, `scheduler`, `decoder` or `conditioner LABEL`.
        component: Registered name of what stands there.
        per: What the cost is of: `call` or `step`.
        calls: How often a run of the pipeline does it.
        device: Where.
        dtype: In which type.
        parameters: Learned numbers.
        weights_bytes: Of parameters and buffers.
        cost: At the size and batch that were asked for; None where the part refuses them.
        with_pixels: Over sizes, at one batch.
        with_batch: Over batches, at one size.
    """

    name: str
    component: str
    per: str
    calls: int
    device: str
    dtype: str
    parameters: int
    weights_bytes: int
    cost: Cost | None
    with_pixels: Growth
    with_batch: Growth


@dataclass(frozen=True, slots=True)
class RunCost:
    """The whole pipeline, from noise to images.

    Attributes:
        steps: Of the sampler.
        denoiser_calls: In a run.
        parameters: Of all parts; what two of them share counts once.
        weights_bytes: The same.
        expected_ms: The sum of its parts, as they were measured by themselves.
        times: Of a run; None where it was left out, as it would have taken too long.
        denoiser_ms: What a call of the denoiser takes in such a run.
        beside_ms: What a step takes beside the denoiser: scheduler, guidance, the reading of predictions.
        memory: Of a run.
        work: The sum of its parts.
    """

    steps: int
    denoiser_calls: int
    parameters: int
    weights_bytes: int
    expected_ms: float
    times: Times | None
    denoiser_ms: Times | None
    beside_ms: Times | None
    memory: Memory | None
    work: Work


@dataclass(frozen=True, slots=True)
class Bench:
    """All of it.

    Attributes:
        name: Of the spec.
        version: Of ldm_registry.
        machine: Where it was measured.
        case: What was asked for.
        seed: Of all noise.
        effort: `thorough` or `quick`.
        clock: What times were read from, by device.
        memory: What a peak counts, by device.
        ceilings: The best rates, one for each device and type that a part runs in.
        parts: In the order of the data flow.
        run: The whole pipeline.
        seconds: That all of this took.
    """

    name: str
    version: str
    machine: Machine
    case: Case
    seed: int
    effort: str
    clock: Mapping[str, str]
    memory: Mapping[str, str]
    ceilings: tuple[Ceiling, ...]
    parts: tuple[PartCost, ...]
    run: RunCost
    seconds: float

    def share_ms(self, part: PartCost) -> float | None:
        """What a part takes of a run: as measured in it, or by itself; None for a part that runs do without."""
        if part.name == Kind.DENOISER and self.run.denoiser_ms is not None:
            return part.calls * self.run.denoiser_ms.median_ms
        return part.calls * part.cost.times.median_ms if part.cost and part.calls else None

    def ceiling(self, part: PartCost) -> Ceiling:
        """Of the device and type of a part."""
        return next(one for one in self.ceilings if (one.device, one.dtype) == (part.device, part.dtype))


@dataclass(frozen=True, slots=True)
class Achieved:
    """How a cost compares with the best rates.

    Attributes:
        flop_s: Floating-point operations a second; None where none are counted.
        byte_s: Bytes moved a second.
        of_compute: Share in [0, 1] of what the best rates of matrix product and convolution, in the proportions of
            this work, allow; None where none are counted or a rate is missing.
        of_copy: Share of the rate of a copy. Above 1 where the bytes come from a cache, or kernels were fused.
    """

    flop_s: float | None
    byte_s: float
    of_compute: float | None
    of_copy: float

    @classmethod
    def of(cls, cost: Cost, ceiling: Ceiling) -> Achieved:
        """By the median time of a cost."""
        work, ms = cost.work, cost.times.median_ms
        least_ms = ceiling.compute_ms(work)
        return cls(
            work.flops / ms * 1e3 if work.flops else None,
            work.moved_bytes / ms * 1e3,
            least_ms / ms if work.flops and least_ms is not None else None,
            ceiling.copy_ms(work) / ms,
        )
