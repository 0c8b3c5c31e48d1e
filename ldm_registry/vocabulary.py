"""The closed word lists that specs, contracts and components share. Imports no torch."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a component is. The first four are the stages of a pipeline, in the order of the data flow.

    Conditioners stand beside the stages: a pipeline has as many as its denoiser needs, often none. A modifier
    changes a finished part of one of the other kinds.
    """

    ENCODER = "encoder"
    DENOISER = "denoiser"
    SCHEDULER = "scheduler"
    DECODER = "decoder"
    SCHEDULE = "schedule"
    CONDITIONER = "conditioner"
    MODIFIER = "modifier"


STAGES = (Kind.ENCODER, Kind.DENOISER, Kind.SCHEDULER, Kind.DECODER)


class Prediction(StrEnum):
    """What a denoiser's network puts out, for `z_t = alpha * x0 + sigma * epsilon`."""

    X0 = "x0"
    EPSILON = "epsilon"
    V = "v"
    """`alpha * epsilon - sigma * x0` with `alpha**2 + sigma**2 = 1` (Salimans and Ho 2022, appendix D)."""
    VELOCITY = "velocity"
    """`epsilon - x0`: points from data to noise (Stable Diffusion 3, Flux)."""
    REVERSE_VELOCITY = "reverse_velocity"
    """`x0 - epsilon`: points from noise to data (SiT, Open-Sora)."""
    F = "f"
    """`sigma * x0 - alpha * epsilon` with `alpha**2 + sigma**2 = 1`, which is -v: the raw network of EDM for data
    of unit variance (Eq. 7, Karras et al. 2022)."""


class Scaling(StrEnum):
    """Which `(alpha, sigma)` of one log-SNR a schedule uses; a choice of units, not of noise."""

    VP = "vp"
    """Variance preserving: `alpha**2 + sigma**2 = 1`."""
    VE = "ve"
    """Variance exploding: `alpha = 1`."""
    FLOW = "flow"
    """Linear interpolation: `alpha + sigma = 1`."""


class DType(StrEnum):
    """The floating-point types that a stage can run in."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
