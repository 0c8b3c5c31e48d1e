"""Faults that people have met, as modifiers that put them into a finished part."""

from __future__ import annotations

from ldm_faults.decoding import HalfPrecisionOverflow, TiledDecode
from ldm_faults.fault import Fault, FaultConfig, SeededConfig
from ldm_faults.latents import DroppedShift, WrongCodecSameShape, WrongScalingFactor
from ldm_faults.outputs import EpsilonForV, ReversedVelocity, UnscaledInput
from ldm_faults.pixels import EDM2Range, UnitRangeInput, UnmappedOutput
from ldm_faults.sampling import (
    BrokenLoop,
    ClippedX0,
    HistoryNotReset,
    LeftoverNoise,
    UniformStride,
    UnscaledPrior,
)
from ldm_faults.times import (
    Bfloat16Time,
    IgnoredZeroSNR,
    LinearForScaledLinear,
    SwappedSinCos,
    TimeScale,
)
from ldm_faults.weights import CollapsedCodebook, CorruptedDecoderWeights, RandomWeights
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

__all__ = ["FAULTS", "Fault", "FaultConfig", "SeededConfig", "register_components"]

FAULTS: tuple[type[Fault], ...] = (
    HalfPrecisionOverflow,
    WrongScalingFactor,
    DroppedShift,
    UnitRangeInput,
    UnmappedOutput,
    EDM2Range,
    WrongCodecSameShape,
    CorruptedDecoderWeights,
    TiledDecode,
    CollapsedCodebook,
    EpsilonForV,
    Bfloat16Time,
    SwappedSinCos,
    TimeScale,
    RandomWeights,
    LinearForScaledLinear,
    IgnoredZeroSNR,
    ClippedX0,
    UniformStride,
    LeftoverNoise,
    UnscaledPrior,
    UnscaledInput,
    HistoryNotReset,
    ReversedVelocity,
    BrokenLoop,
)
"""In the order of the catalogue."""


@hookimpl
def register_components() -> list[type[Component]]:
    """Every fault."""
    return list(FAULTS)
