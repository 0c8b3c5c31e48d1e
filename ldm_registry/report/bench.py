"""What `ldm bench` found, for a terminal and as a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ldm_registry.costs.part_calls import Case
from ldm_registry.costs.repeated import Memory, Times
from ldm_registry.costs.resident_memory import MIB
from ldm_registry.costs.result import Achieved, Bench, Cost, Growth, PartCost
from ldm_registry.report.tables import table

GROWING = {"flops": "FLOPs", "time": "time", "working_memory": "memory"}
"""Exponents that the table shows, by their name in a document."""


def to_document(bench: Bench) -> dict[str, Any]:
    """Everything as a JSON document; docs/bench-command.md says what each key means."""
    run = bench.run
    return {
        "spec": bench.name,
        "version": bench.version,
        "machine": asdict(bench.machine),
        "case": asdict(bench.case),
        "seed": bench.seed,
        "effort": bench.effort,
        "seconds": bench.seconds,
        "clock": dict(bench.clock),
        "memory": dict(bench.memory),
        "ceilings": [asdict(one) for one in bench.ceilings],
        "parts": [_part(bench, one) for one in bench.parts],
        "run": {
            "steps": run.steps,
            "denoiser_calls": run.denoiser_calls,
            "parameters": run.parameters,
            "weights_bytes": run.weights_bytes,
            "expected_ms": run.expected_ms,
            **asdict(run.work),
            "times": _times(run.times),
            "denoiser_call": _times(run.denoiser_ms),
            "beside_denoiser_per_step": _times(run.beside_ms),
            "memory": _memory(run.memory),
        },
    }


def render(bench: Bench) -> str:
    """Three tables of one screen: what each part takes, how hard it works, how it grows."""
    case, machine = bench.case, bench.machine
    what = "1 image" if case.batch == 1 else f"{case.batch} images"
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    where = ", ".join((machine.processor, *machine.accelerators.values(), threads))
    blocks = [
        f"{bench.name}: {what} of {case.size} px at once; {where}, torch {machine.torch}",
        _taken(bench),
        _worked(bench),
        "\n".join(_best(bench)),
        _grown(bench),
        "\n".join(_notes(bench)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _taken(bench: Bench) -> str:
    run, shown_ms = bench.run, bench.run.times.median_ms if bench.run.times else bench.run.expected_ms
    rows = [
        [
            f"{part.name} ({part.component})",
            f"{part.calls} x",
            *_time_cells(part.cost.times if part.cost else None),
            _percent(None if (ms := bench.share_ms(part)) is None else ms / shown_ms),
            _figure(part.cost.memory.working_mib if part.cost and part.cost.memory else None),
            f"{part.parameters:,}",
            _figure(part.weights_bytes / MIB),
        ]
        for part in bench.parts
    ]
    whole = [
        f"whole run, {run.steps} steps",
        "",
        *(_time_cells(run.times) if run.times else (_figure(run.expected_ms), "sum")),
        "",
        _figure(run.memory.working_mib if run.memory else None),
        f"{run.parameters:,}",
        _figure(run.weights_bytes / MIB),
    ]
    header = ("part", "in a run", "time ms", "spread", "share", "memory MiB", "parameters", "weights MiB")
    return table(header, [*rows, whole], right=range(1, len(header)))


def _worked(bench: Bench) -> str:
    rows = []
    for part in bench.parts:
        if part.cost is None:
            continue
        work, achieved = part.cost.work, Achieved.of(part.cost, bench.ceiling(part))
        rows.append(
            [
                f"{part.name}, a {part.per}",
                _figure(work.flops / 1e9 if work.flops else None),
                _figure(achieved.flop_s / 1e9 if achieved.flop_s else None),
                _percent(achieved.of_compute),
                _figure(work.moved_bytes / 1e6),
                _figure(achieved.byte_s / 1e9),
                _percent(achieved.of_copy),
            ]
        )
    header = ("work", "GFLOP", "GFLOP/s", "of best", "MB moved", "GB/s", "of copying")
    return table(header, rows, right=range(1, len(header)))


def _best(bench: Bench) -> Iterator[str]:
    for one in bench.ceilings:
        rates = (
            ("matrix product", one.matmul_flop_s, "GFLOP/s"),
            ("3x3 convolution", one.convolution_flop_s, "GFLOP/s"),
            ("copy", one.copy_byte_s, "GB/s"),
        )
        said = ", ".join(f"{name} {_figure(rate / 1e9)} {unit}" for name, rate, unit in rates if rate)
        yield f"best in {one.dtype} on {one.device}: {said}"


def _grown(bench: Bench) -> str:
    rows = []
    for part in bench.parts:
        pixels, batch = part.with_pixels.exponents(_pixels), part.with_batch.exponents(_batch)
        cells = [_exponent(found[name]) for found in (pixels, batch) for name in GROWING]
        rows.append(
            [part.name, _extent(part.with_pixels, "px"), *cells[:3], _extent(part.with_batch), *cells[3:]]
        )
    header = ("exponent", "of pixels", *GROWING.values(), "of batch", *GROWING.values())
    return table(header, rows, right=(2, 3, 4, 6, 7, 8))


def _notes(bench: Bench) -> Iterator[str]:
    run = bench.run
    if run.beside_ms is not None:
        yield (
            f"a step takes {_figure(run.beside_ms.median_ms)} ms beside the denoiser: scheduler, guidance, reading of "
            "predictions"
        )
    if run.times is None:
        yield "the whole run was left out, as it takes long; its time is the sum of its parts"
    yield from _refusals(bench)


def _refusals(bench: Bench) -> Iterator[str]:
    """Who refuses what, and why; those that refuse the same for one reason in one line."""
    refusing: dict[tuple[str, str], list[str]] = {}
    for part in bench.parts:
        refused = dict(part.with_pixels.refused) | dict(part.with_batch.refused)
        for why in dict.fromkeys(refused.values()):
            cases = ", ".join(
                f"{case.batch} of {case.size} px" for case, said in refused.items() if said == why
            )
            refusing.setdefault((cases, why), []).append(part.name)
    for (cases, why), names in refusing.items():
        yield f"{', '.join(names)}: no {cases}: {why}"


def _part(bench: Bench, part: PartCost) -> dict[str, Any]:
    return {
        "part": part.name,
        "component": part.component,
        "per": part.per,
        "calls_in_a_run": part.calls,
        "device": part.device,
        "dtype": part.dtype,
        "parameters": part.parameters,
        "weights_bytes": part.weights_bytes,
        "cost": None if part.cost is None else _cost(bench, part, part.cost),
        "growth": {
            "pixels": _growth(bench, part, part.with_pixels, part.with_pixels.exponents(_pixels)),
            "batch": _growth(bench, part, part.with_batch, part.with_batch.exponents(_batch)),
        },
    }


def _growth(
    bench: Bench, part: PartCost, growth: Growth, exponents: dict[str, float | None]
) -> dict[str, Any]:
    return {
        "exponents": exponents,
        "points": [{**asdict(case), **_cost(bench, part, cost)} for case, cost in growth.points],
        "refused": [{**asdict(case), "why": why} for case, why in growth.refused],
    }


def _cost(bench: Bench, part: PartCost, cost: Cost) -> dict[str, Any]:
    return {
        "times": _times(cost.times),
        "memory": _memory(cost.memory),
        "stated_mib": cost.stated_mib,
        **asdict(cost.work),
        **asdict(Achieved.of(cost, bench.ceiling(part))),
    }


def _times(times: Times | None) -> dict[str, Any] | None:
    return None if times is None else asdict(times)


def _memory(memory: Memory | None) -> dict[str, Any] | None:
    return None if memory is None else asdict(memory)


def _time_cells(times: Times | None) -> tuple[str, str]:
    if times is None:
        return "-", "-"
    spread = times.spread
    return _figure(times.median_ms), "-" if spread is None else f"\N{PLUS-MINUS SIGN}{spread:.0%}"


def _extent(growth: Growth, unit: str = "") -> str:
    """The smallest and the largest that was measured."""
    cases = [case for case, _ in growth.points]
    if len(cases) < 2:
        return "-"
    first, last = cases[0], cases[-1]
    return f"{first.size} to {last.size} {unit}" if unit else f"{first.batch} to {last.batch}"


def _pixels(case: Case) -> float:
    return float(case.pixels)


def _batch(case: Case) -> float:
    return float(case.batch)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _figure(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "-"
    if value == 0.0:
        return "0"
    if abs(value) >= 100.0:
        return f"{value:,.0f}"
    return f"{value:.3f}"[:5].rstrip(".") if abs(value) >= 0.01 else f"{value:.2g}"
