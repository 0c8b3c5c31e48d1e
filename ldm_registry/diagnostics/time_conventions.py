"""The ways in which networks are told how noisy their input is: functions of log-SNR, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

TimeOf = Callable[[Tensor], Tensor]
"""Log-SNR in nats (float64, any shape) to the number that a network's time embedding takes."""

STEPS = 1000
MAX_PERIOD = 10_000.0


def steps_of(betas: Tensor) -> TimeOf:
    """The step of a discrete schedule whose betas are [T]; linear in log-SNR between steps.

    Args:
        betas: Variance that each step adds (Ho et al. 2020).
    """
    alpha_bar = torch.cumprod(1.0 - betas, dim=0).clamp(1e-20, 1.0 - 1e-12)
    known = (alpha_bar.log() - torch.log1p(-alpha_bar)).flip(0)
    steps = torch.arange(len(betas), dtype=torch.float64).flip(0)

    def time(log_snr: Tensor) -> Tensor:
        inside = log_snr.clamp(float(known[0]), float(known[-1]))
        above = torch.searchsorted(known, inside).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        share = (inside - low) / (high - low).clamp(min=1e-12)
        return steps[above - 1] + share * (steps[above] - steps[above - 1])

    return time


def noise_fraction(shift: float) -> TimeOf:
    """1000 t of a flow whose noise fraction `sigma / (alpha + sigma)` is `shift t / (1 + (shift - 1) t)`."""

    def time(log_snr: Tensor) -> Tensor:
        ratio = torch.exp(-0.5 * log_snr)
        return 1000.0 * ratio / (ratio + shift)

    return time


def noise_angle(log_snr: Tensor) -> Tensor:
    """1000 t of `alpha = cos(pi t / 2)` (Nichol and Dhariwal 2021, continuous)."""
    return 2000.0 / torch.pi * torch.atan(torch.exp(-0.5 * log_snr))


def quarter_log_sigma(log_snr: Tensor) -> Tensor:
    """`ln(sigma) / 4` (Table 1, Karras et al. 2022)."""
    return -0.125 * log_snr


@cache
def conventions() -> Mapping[str, TimeOf]:
    """What networks are commonly told, by the name of the schedule."""
    unit = torch.linspace(0.0, 1.0, STEPS, dtype=torch.float64)
    edges = torch.linspace(0.0, 1.0, STEPS + 1, dtype=torch.float64)
    kept = torch.cos((edges + 0.008) / 1.008 * torch.pi / 2).square()
    return {
        "linear": steps_of(1e-4 + unit * (0.02 - 1e-4)),
        "scaled_linear": steps_of((0.00085**0.5 + unit * (0.012**0.5 - 0.00085**0.5)).square()),
        "squaredcos_cap_v2": steps_of((1.0 - kept[1:] / kept[:-1]).clamp(max=0.999)),
        "sigmoid": steps_of(torch.sigmoid(12.0 * unit - 6.0) * (0.02 - 1e-4) + 1e-4),
        "cosine": noise_angle,
        "rectified_flow": noise_fraction(1.0),
        "rectified_flow with shift 3": noise_fraction(3.0),
        "edm": quarter_log_sigma,
    }


def sinusoids(time: Tensor, features: int, shift: float, *, cosine_first: bool) -> Tensor:
    """Time features [B, features] of times [B] (section 3.5, Vaswani et al. 2017), float64.

    Args:
        time: What the network is told.
        features: Even.
        shift: `frequency_k = 10000 ** (-k / (features / 2 - shift))`.
        cosine_first: Whether the cosines come before the sines.
    """
    half = features // 2
    exponent = torch.arange(half, dtype=torch.float64) / (half - shift)
    angle = time.double().cpu().reshape(-1, 1) * torch.pow(MAX_PERIOD, -exponent)
    halves = (angle.cos(), angle.sin()) if cosine_first else (angle.sin(), angle.cos())
    return torch.cat(halves, dim=1)
