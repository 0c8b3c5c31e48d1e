"""Carry a run out, be it a new one or an earlier one once more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_registry.assembly import assemble
from ldm_registry.errors import SpecError
from ldm_registry.pipeline import Event
from ldm_registry.report import run_record
from ldm_registry.report.timing import drain, events
from ldm_registry.spec import PipelineSpec, load_spec

USUAL_IMAGES = 16

Watch = Callable[[Iterable[Event]], Iterable[Event]]
"""Passes events through, and may show them on the way."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has not begun.

    Attributes:
        spec: Resolved: with the seed and the devices that will be used.
        n: Images.
        batch: Images at once; None for all.
        earlier: The record of the run that this one repeats, if it does.
    """

    spec: PipelineSpec
    n: int
    batch: int | None = None
    earlier: Mapping[str, Any] | None = None


def usual_n(spec: PipelineSpec) -> int:
    """16 images, or a few more, so that every value of the condition comes up equally often."""
    rounds = max((len(values) for values in spec.condition.values()), default=1)
    return rounds * math.ceil(USUAL_IMAGES / rounds)


def repeat(path: Path) -> Plan:
    """The plan of an earlier run, from its record and the resolved spec beside it.

    Args:
        path: Its `run.json`.

    Raises:
        LdmError: It cannot be read, or the spec beside it is not the one that it ran.
    """
    earlier = run_record.read(path)
    spec_path = path.with_name(run_record.SPEC)
    spec = load_spec(spec_path)
    if spec_path.read_text(encoding="utf-8") != earlier["spec"]:
        raise SpecError(
            f"{spec_path} was changed after the run that {path} records", hint="run the spec itself"
        )
    return Plan(spec, earlier["n"], earlier["batch"], earlier)


def carry_out(plan: Plan, folder: Path, watch: Watch = iter) -> tuple[dict[str, Any], list[str]]:
    """Run, and write images, grid, spec and record.

    Args:
        plan: What to run.
        folder: As `claim_folder` left it.
        watch: What the events pass through.

    Returns:
        The record, and which images of an earlier run were not reproduced.

    Raises:
        LdmError: As `assemble`.
    """
    begin = time.perf_counter()
    pipe = assemble(plan.spec)
    assembly_ms = (time.perf_counter() - begin) * 1e3
    run = drain(watch(events(pipe, plan.n, batch=plan.batch)))
    document = run_record.record(pipe, run, folder, batch=plan.batch, assembly_ms=assembly_ms)
    run_record.write(folder, run, document)
    differing = run_record.differing_images(plan.earlier, document) if plan.earlier else []
    return document, differing
