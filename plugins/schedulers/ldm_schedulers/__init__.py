"""Noise schedules and samplers for `ldm_registry`."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component
from ldm_schedulers.continuous import CosineSchedule, RectifiedFlowSchedule, VESchedule, VPSchedule
from ldm_schedulers.ddim import DDIM
from ldm_schedulers.ddpm import DDPM
from ldm_schedulers.discrete import (
    LinearSchedule,
    ScaledLinearSchedule,
    SigmoidSchedule,
    SquaredCosSchedule,
    TrainedBetasSchedule,
)

__all__ = [
    "DDIM",
    "DDPM",
    "CosineSchedule",
    "LinearSchedule",
    "RectifiedFlowSchedule",
    "ScaledLinearSchedule",
    "SigmoidSchedule",
    "SquaredCosSchedule",
    "TrainedBetasSchedule",
    "VESchedule",
    "VPSchedule",
]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """Every noise schedule and sampler of this plugin."""
    return [
        LinearSchedule,
        ScaledLinearSchedule,
        SquaredCosSchedule,
        SigmoidSchedule,
        TrainedBetasSchedule,
        VPSchedule,
        VESchedule,
        CosineSchedule,
        RectifiedFlowSchedule,
        DDPM,
        DDIM,
    ]
