"""Discrete diffusion as one table: `log(sigma / alpha)` at each of the T training steps, in float64.

All the betas-based schedules differ in how they fill the table and in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from ldm_registry.interfaces import NoiseLevel
from ldm_registry.vocabulary import Scaling

DOUBLE: Final[dict[str, Any]] = {"dtype": torch.float64, "device": torch.device("cpu")}
"""Every table is built with it: components are constructed under `torch.device("meta")`."""

_SNAP_NATS = 4e-7
"""Levels closer than this in `log(sigma / alpha)` are one step: twice what rounding alpha and sigma to float32
can move them. Neighbouring steps of a thousand-step schedule lie about 1e-2 apart."""


def linear_betas(start: float, end: float, steps: int) -> Tensor:
    """Betas rising linearly (Sec. 4, Ho et al. 2020), float64 [T]."""
    return torch.linspace(start, end, steps, **DOUBLE)


def scaled_linear_betas(start: float, end: float, steps: int) -> Tensor:
    """Betas whose square root rises linearly (latent diffusion, Rombach et al. 2022), float64 [T]."""
    return torch.linspace(start**0.5, end**0.5, steps, **DOUBLE) ** 2


def sigmoid_betas(start: float, end: float, steps: int) -> Tensor:
    """Betas along a sigmoid over [-6, 6] (GeoDiff, Xu et al. 2022), float64 [T]."""
    return torch.linspace(-6.0, 6.0, steps, **DOUBLE).sigmoid() * (end - start) + start


def alpha_bar_betas(alpha_bar: Callable[[float], float], steps: int, max_beta: float) -> Tensor:
    """The betas of a cumulative product that is known in closed form, float64 [T].

    Args:
        alpha_bar: The product of `1 - beta` up to a time in [0, 1].
        steps: T.
        max_beta: Cap that keeps the last steps from removing all signal at once.
    """
    bars = [alpha_bar(step / steps) for step in range(steps + 1)]
    betas = [min(1.0 - after / before, max_beta) for before, after in pairwise(bars)]
    return torch.tensor(betas, **DOUBLE)


def squared_cosine(time: float) -> float:
    """`alpha_bar` of Eq. 17, Nichol and Dhariwal 2021, before its normalisation by the value at 0."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def log_ratios(
    betas: Tensor, *, rescale_zero_snr: bool = False, terminal_alpha_bar: float | None = None
) -> Tensor:
    """`log(sigma / alpha)` after each step, float64 [T], rising; +inf where no signal is left.

    Args:
        betas: float64 [T] in (0, 1].
        rescale_zero_snr: Shift and scale alpha so that the last step holds no signal and the first stays as it
            is (Algorithm 1, Lin et al. 2024).
        terminal_alpha_bar: `alpha**2` of the last step in place of what the betas give.
    """
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    if rescale_zero_snr:
        alpha = (0.5 * log_alpha_bar).exp()
        alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        log_alpha_bar = 2.0 * alpha.log()
    if terminal_alpha_bar is not None:
        log_alpha_bar[-1] = math.log(terminal_alpha_bar)
    return 0.5 * (torch.log(-torch.expm1(log_alpha_bar)) - log_alpha_bar)


@dataclass(frozen=True, slots=True)
class StepTable:
    """Levels at whole steps, and in between.

    Between two steps `log(sigma / alpha)` is linear in time, or `sigma / alpha` itself. Where the last step holds
    no signal both are infinite, and `alpha / sigma` is linear over the last interval instead.

    Attributes:
        log_ratio: `log(sigma / alpha)`, float64 [T] on the CPU, strictly rising; the last may be +inf.
        linear: Between two steps `sigma / alpha` is linear in time.
    """

    log_ratio: Tensor
    linear: bool = False

    @property
    def steps(self) -> int:
        """T."""
        return len(self.log_ratio)

    def level(self, time: Tensor) -> NoiseLevel:
        """The variance-preserving level at times in [0, T - 1], any shape.

        Raises:
            ValueError: A time lies outside.
        """
        time = within(time, (0.0, self.steps - 1.0))
        left = time.floor().clamp(max=self.steps - 2.0)
        fraction = time - left
        low, high = self.log_ratio[left.long()], self.log_ratio[left.long() + 1]
        inner = torch.lerp(low.exp(), high.exp(), fraction).log() if self.linear else low.lerp(high, fraction)
        between = torch.where(high.isinf(), low - torch.log1p(-fraction), inner)
        log_ratio = torch.where(fraction == 0, low, torch.where(fraction == 1, high, between))
        return NoiseLevel.at(-2.0 * log_ratio, Scaling.VP)

    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64; whole steps come back as exactly themselves."""
        value, last = log_ratio_of(level), self.log_ratio[-1]
        # A terminal_alpha_bar may leave the last step cleaner than the one before it.
        rising = torch.cat([self.log_ratio[:-1], self.log_ratio[-2:].amax(0, keepdim=True)])
        left = (torch.searchsorted(rising, value.contiguous()) - 1).clamp(0, self.steps - 2)
        low, high = rising[left], rising[left + 1]
        rise, span = value - low, high - low
        inner = rise.expm1() / span.expm1() if self.linear else rise / span
        fraction = torch.where(high.isinf(), -torch.expm1(low - value), inner.nan_to_num(0.0))
        time = (left + fraction).clamp(0.0, self.steps - 1.0)
        nearest = time.round()
        snapped = torch.where((value - rising[nearest.long()]).abs() <= _SNAP_NATS, nearest, time)
        return torch.where((value == last) | ((value - last).abs() <= _SNAP_NATS), self.steps - 1.0, snapped)


def log_ratio_of(level: NoiseLevel) -> Tensor:
    """`log(sigma / alpha)` of a level, float64 on the CPU; infinite at the two ends."""
    alpha, sigma = level.alpha.to("cpu", torch.float64), level.sigma.to("cpu", torch.float64)
    return sigma.log() - alpha.log()


def within(time: Tensor, time_range: tuple[float, float]) -> Tensor:
    """Times as float64 on the CPU, checked against a range.

    Raises:
        ValueError: A time lies outside by more than rounding.
    """
    time = time.to("cpu", torch.float64)
    low, high = time_range
    slack = 1e-6 * (high - low)
    if not bool(((time >= low - slack) & (time <= high + slack)).all()):
        raise ValueError(
            f"times {time.tolist()} reach outside of this noise schedule's range [{low}, {high}]"
        )
    return time.clamp(low, high)
