"""Measure every part of a pipeline by itself, the pipeline as a whole, and what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ldm_registry.costs.ceiling import Ceiling, measured
from ldm_registry.costs.machine import machine
from ldm_registry.costs.operations import Work
from ldm_registry.costs.part_calls import Calls, Case, Name, PartCall, part_calls, parts_of
from ldm_registry.costs.part_cost import Costs, cost_of, growth
from ldm_registry.costs.pipeline_run import measured_runs
from ldm_registry.costs.result import Bench, Cost, PartCost, RunCost
from ldm_registry.costs.series import THOROUGH, Effort, Series
from ldm_registry.costs.stopwatch import stopwatch
from ldm_registry.costs.weights import parameters, weights_bytes
from ldm_registry.diagnostics.left_as_found import left_as_found
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.vocabulary import Kind


@dataclass(frozen=True, slots=True)
class Begun:
    """Something is going to be measured.

    Attributes:
        about: What.
        index: How many came before it.
        count: How many there are.
    """

    about: str
    index: int
    count: int


def bench(
    pipe: Pipeline,
    *,
    batch: int = 1,
    sizes: Sequence[tuple[int, int]] | None = None,
    seed: int | None = None,
    effort: Effort = THOROUGH,
) -> Bench:
    """Measure what a pipeline costs, part by part. It is left as it was found.

    Args:
        pipe: What to measure.
        batch: Images at once; growth is measured at one, two and four times as many.
        sizes: (height, width) in pixels to measure growth over; None takes half, once and twice the spec's.
        seed: Of all noise; None takes the spec's.
        effort: How much is measured; `QUICK` takes about a third of the time.

    Returns:
        All figures.

    Raises:
        LdmError: The pipeline does not run at the size of its spec.
    """
    *_, last = benching(pipe, batch=batch, sizes=sizes, seed=seed, effort=effort)
    assert isinstance(last, Bench)
    return last


@torch.inference_mode()
def benching(
    pipe: Pipeline,
    *,
    batch: int = 1,
    sizes: Sequence[tuple[int, int]] | None = None,
    seed: int | None = None,
    effort: Effort = THOROUGH,
) -> Iterator[Begun | Bench]:
    """As `bench`, which drains it: says what is begun, and ends with the figures."""
    begin = time.perf_counter()
    seed = pipe.spec.seed if seed is None else seed
    series = Series.of(pipe, batch, sizes, effort)
    with left_as_found(pipe):
        asked = part_calls(pipe, series.asked, seed)
        places = list(dict.fromkeys((one.device, one.dtype) for one in _accepted(asked).values()))
        count = len(places) + len(series.cases) * len(asked) + 1
        ceilings: list[Ceiling] = []
        for device, dtype in places:
            yield Begun(f"the best rates of {device} in {dtype}", len(ceilings), count)
            ceilings.append(measured(device, dtype, effort.ceiling_s))
        costs: dict[Case, dict[Name, Cost | str]] = {}
        for index, case in enumerate(series.cases):
            calls = part_calls(pipe, case, seed) if index else asked
            costs[case] = {}
            for name, call in calls.items():
                before = len(places) + index * len(asked) + len(costs[case])
                yield Begun(f"{name}, batch {case.batch}, {case.size} px", before, count)
                costs[case][name] = cost_of(call, effort.part_s / (2 if index else 1))
        parts = tuple(_part(pipe, name, asked, costs, series) for name in asked)
        yield Begun("whole runs", count - 1, count)
        run = _run(pipe, parts, series, seed, effort)
    from ldm_registry import __version__

    watches = {device: stopwatch(device) for device, _ in places}
    yield Bench(
        pipe.spec.source.stem if pipe.spec.source else "pipeline",
        __version__,
        machine(watches),
        series.asked,
        seed,
        effort.name,
        {str(device): watch.clock for device, watch in watches.items()},
        {str(device): watch.memory for device, watch in watches.items()},
        tuple(ceilings),
        parts,
        run,
        time.perf_counter() - begin,
    )


def _accepted(calls: Calls) -> dict[Name, PartCall]:
    return {name: call for name, call in calls.items() if isinstance(call, PartCall)}


def _part(pipe: Pipeline, name: Name, asked: Calls, costs: Costs, series: Series) -> PartCost:
    part, call, cost = parts_of(pipe)[name], asked[name], costs[series.asked][name]
    device, dtype = (call.device, call.dtype) if isinstance(call, PartCall) else placement(part)
    return PartCost(
        name,
        part.name,
        "step" if name == Kind.SCHEDULER else "call",
        _calls(pipe, name, asked),
        str(device),
        str(dtype).removeprefix("torch."),
        parameters(part),
        weights_bytes(part),
        cost if isinstance(cost, Cost) else None,
        growth(costs, name, series.by_size),
        growth(costs, name, series.by_batch),
    )


def _calls(pipe: Pipeline, name: Name, asked: Calls) -> int:
    """How often a run does what a part does; it begins with noise, and no encoder."""
    sampler = asked[Kind.SCHEDULER.value]
    steps, asks = (sampler.shares, sampler.asks) if isinstance(sampler, PartCall) else (0, 0)
    texts = 1 if pipe.spec.guidance.scale == 1.0 else 2
    known: dict[str, int] = {Kind.ENCODER: 0, Kind.DENOISER: asks, Kind.SCHEDULER: steps, Kind.DECODER: 1}
    return known.get(name, texts)


def _run(pipe: Pipeline, parts: Sequence[PartCost], series: Series, seed: int, effort: Effort) -> RunCost:
    every = parts_of(pipe).values()
    costs = [(part.calls, part.cost) for part in parts if part.cost is not None]
    expected_ms = sum(calls * cost.times.median_ms for calls, cost in costs)
    runs = None
    if expected_ms <= effort.longest_run_ms:
        watch = stopwatch(placement(pipe.denoiser)[0])
        runs = measured_runs(pipe, series.asked.batch, seed, watch, effort.run_s)
    of = {part.name: part.calls for part in parts}
    return RunCost(
        of[Kind.SCHEDULER],
        of[Kind.DENOISER],
        parameters(*every),
        weights_bytes(*every),
        expected_ms,
        runs.times if runs else None,
        runs.denoiser_ms if runs else None,
        runs.beside_ms if runs else None,
        runs.memory if runs else None,
        sum((cost.work.times(calls) for calls, cost in costs), Work()),
    )
