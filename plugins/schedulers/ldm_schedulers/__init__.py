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
from ldm_schedulers.dpm_multistep import DPMMultistep
from ldm_schedulers.dpmpp import DPMpp2M
from ldm_schedulers.edm import EDMSchedule
from ldm_schedulers.edm_euler import EDMEuler
from ldm_schedulers.euler import Euler, EulerAncestral, FlowEuler
from ldm_schedulers.heun import EDMHeun, FlowHeun, Heun
from ldm_schedulers.lms import LMS
from ldm_schedulers.pndm import PNDM
from ldm_schedulers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "LMS",
    "PNDM",
    "CosineSchedule",
    "DPMMultistep",
    "DPMpp2M",
    "EDMEuler",
    "EDMHeun",
    "EDMSchedule",
    "Euler",
    "EulerAncestral",
    "FlowEuler",
    "FlowHeun",
    "Heun",
    "LinearSchedule",
    "RectifiedFlowSchedule",
    "ScaledLinearSchedule",
    "SigmoidSchedule",
    "SquaredCosSchedule",
    "TrainedBetasSchedule",
    "UniPC",
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
        EDMSchedule,
        DDPM,
        DDIM,
        Euler,
        EulerAncestral,
        Heun,
        DPMpp2M,
        PNDM,
        FlowEuler,
        FlowHeun,
        EDMHeun,
        DPMMultistep,
        LMS,
        UniPC,
        EDMEuler,
    ]
