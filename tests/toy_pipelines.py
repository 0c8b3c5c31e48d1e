"""Pipelines of the toy plugin that are run as a spec's `runtime:` says."""

from __future__ import annotations

from typing import Any

import toy_plugin

from ldm_registry.assembly import assemble
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import DenoiserSpec, ImageSpec, PipelineSpec, SchedulerSpec, StageSpec, swap

TRAINED: Any = {"prediction": "v", "schedule": {"name": "toy_schedule"}}
SPEC = PipelineSpec(
    image=ImageSpec(size=16),
    encoder=StageSpec(use="toy-codec"),
    denoiser=DenoiserSpec(use="toy-denoiser", trained=TRAINED),
    scheduler=SchedulerSpec(use="toy-scheduler"),
    decoder=StageSpec(use="toy-codec"),
    condition={"class_label": (0, 2, 1)},
)


def toy(**changes: Any) -> Pipeline:
    """The toy pipeline with changes of its spec as `swap` takes them, always with the same weights."""
    return assemble(swap(SPEC, **changes), Registry([toy_plugin]), init_seed=4)
