"""What one part costs, and how that grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ldm_registry.costs.operations import Work, counted
from ldm_registry.costs.part_calls import Case, Name, PartCall, refusal
from ldm_registry.costs.repeated import Times, held, timed
from ldm_registry.costs.resident_memory import MIB
from ldm_registry.costs.result import Cost, Growth
from ldm_registry.costs.stopwatch import stopwatch
from ldm_registry.runtime import offload
from ldm_registry.runtime.entry import own_calls, stand_in

SLOW_MS = 2_000.0
"""A call that takes longer is timed once, after the one that counts its work."""
Costs = Mapping[Case, Mapping[Name, Cost | str]]
"""What every part costs in every case, or why it refuses."""


@torch.inference_mode()
def cost_of(call: PartCall | str, seconds: float) -> Cost | str:
    """Time, memory and work of a part; what it says where it refuses.

    Args:
        call: What it does, or why it does not.
        seconds: To spend on times, roughly.
    """
    if isinstance(call, str):
        return call
    watch, once = stopwatch(call.device), list[Times]()
    stated_mib, free_mib = None if call.stated_bytes is None else call.stated_bytes / MIB, watch.free_mib()
    if stated_mib is not None and free_mib is not None and stated_mib > free_mib:
        return f"it would take {stated_mib:,.0f} MiB, of which {free_mib:,.0f} MiB are free"
    try:
        with offload.held(call.part):  # as for the length of a run
            work = _work(call)
            memory = held(lambda: once.append(timed(call.run, watch, 0.0, least=1)), watch)
            times = once[0] if once[0].median_ms > SLOW_MS else timed(call.run, watch, seconds)
    except Exception as error:  # no memory, or a size that it does not take
        return refusal(error)
    return Cost(times.over(call.shares), memory, work.times(1 / call.shares), stated_mib)


def _work(call: PartCall) -> Work:
    """Of the part's own method: what compiled code does cannot be seen, but is the same work."""
    if stand_in(call.part) is None:
        return counted(call.run)
    with own_calls(call.part):
        work = counted(call.run)
    call.run()  # compiled, if it was not for this size
    return work


def growth(costs: Costs, name: Name, cases: Sequence[Case]) -> Growth:
    """One part over some cases.

    Args:
        costs: Of all parts in these cases, at least.
        name: The part.
        cases: Which of them.
    """
    found = [(case, costs[case][name]) for case in cases]
    return Growth(
        tuple((case, cost) for case, cost in found if isinstance(cost, Cost)),
        tuple((case, cost) for case, cost in found if isinstance(cost, str)),
    )
