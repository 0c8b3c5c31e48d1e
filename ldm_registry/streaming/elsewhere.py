"""The pipeline of a run whose images are made elsewhere: what its parts hold, without what they would run on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ldm_registry.assembly import assemble
from ldm_registry.pipeline import Pipeline
from ldm_registry.spec import PipelineSpec, swap
from ldm_registry.vocabulary import STAGES, Kind


def template(spec: PipelineSpec) -> Pipeline:
    """A pipeline that tells what a run's workers have to assemble, on a machine that may lack their GPU or compiler.

    Its parts are on the CPU and not compiled, while its spec is the one given.

    Args:
        spec: Of the run.

    Raises:
        LdmError: It cannot be assembled.
    """
    changes: dict[str, Any] = {f"{stage}_device": None for stage in STAGES}
    changes |= {f"{stage}_runtime": None for stage in STAGES if stage != Kind.SCHEDULER}
    changes["conditioners"] = {label: {"device": None, "runtime": None} for label in spec.conditioners}
    return replace(assemble(swap(spec, **changes)), spec=spec)
