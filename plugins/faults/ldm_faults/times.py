"""Faults of the time that a denoiser is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from ldm_faults.fault import Fault
from ldm_registry.interfaces import Component, NoiseLevel, NoiseSchedule, Trained
from ldm_registry.vocabulary import Kind

_TRAINING_STEPS = 1000.0
_ALPHA_OF_SD = 0.0683
"""sqrt of the last cumulative signal, 0.0047, of Stable Diffusion's schedule (Table 1, Lin et al. 2024)."""
_NO_SIGNAL = 0.02
_BLAMES: tuple[Kind, ...] = (Kind.DENOISER, Kind.SCHEDULER)
# The time crosses from one to the other, and implementations differ in whose it is: either is a right answer.


@final
@dataclass(frozen=True, slots=True)
class ToldWrong(Trained):
    """A training whose network is told another time than it should be.

    Attributes:
        wrong: From the level and the right network time, both float64, to what the network is told.
    """

    wrong: Callable[[NoiseLevel, Tensor], Tensor] = lambda _level, time: time

    def network_time(self, level: NoiseLevel) -> Tensor:
        """The wrong number, float64 on the CPU, shape of the level."""
        return self.wrong(level, Trained.network_time(self, level))


@final
class Bfloat16Time(Fault):
    """F36: the time passes through bfloat16, which has 8 significant bits: 937 becomes 936, 998.4 becomes 1000.

    Met as a lost composition with details intact (mixed-precision pipelines that cast all inputs). Strength goes
    from the time to the rounded one.
    """

    name = "bfloat16-time"
    fault_id = "F36"
    modifies = stages = (Kind.DENOISER,)
    blames = _BLAMES
    words = ("time is rounded", "bfloat16")
    fault_class = "rounded time"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        strength = self.strength

        def rounded(_level: NoiseLevel, time: Tensor) -> Tensor:
            return torch.lerp(time, time.to(torch.bfloat16).to(time.dtype), strength)

        _tell(self, part, rounded)


@final
class TimeScale(Fault):
    """F39: the time is given in [0, 1] to an embedding built for [0, 1000], or the reverse.

    Met as blur and outputs that do not depend on the noise level. The factor is `1000 ** strength`.
    """

    name = "time-scale"
    fault_id = "F39"
    modifies = stages = (Kind.DENOISER,)
    blames = _BLAMES
    words = ("time is multiplied", "time scale", "time is given in")
    fault_class = "scale of time"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        trained = _trained(self, part)
        largest = trained.time_scale * trained.schedule.time_range[1]
        factor = _TRAINING_STEPS ** (-self.strength if largest > 2.0 else self.strength)
        _tell(self, part, lambda _level, time: factor * time)


@final
class LinearForScaledLinear(Fault):
    """F54: times are looked up in the `linear` schedule although the network was trained under another.

    Met as background noise and oversaturation (latent diffusion calls "linear" what diffusers calls
    `scaled_linear`). The sampler's noise is right, the time that goes with it is not. The betas run between those
    of the training schedule, where it says them, else between 0.0001 and 0.02. Strength goes from right to wrong.
    """

    name = "linear-for-scaled-linear"
    fault_id = "F54"
    modifies = stages = (Kind.DENOISER,)
    blames = _BLAMES
    words = ("noise schedule",)
    fault_class = "noise schedule"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        schedule = _discrete(self, part)
        config = schedule.config
        start, end = getattr(config, "beta_start", 0.0001), getattr(config, "beta_end", 0.02)
        if schedule.name == "linear":
            raise self.refusal(part, "it was trained under `linear`")
        betas = torch.linspace(start, end, schedule.steps or 0, dtype=torch.float64, device="cpu")
        alpha_bar = torch.cumprod(1.0 - betas, dim=0)
        table = 0.5 * (torch.log1p(-alpha_bar) - alpha_bar.log())
        _tell_from_table(self, part, table, self.strength)


@final
class IgnoredZeroSNR(Fault):
    """F55: the rescale to zero terminal SNR that the training had is ignored when sampling.

    Met as mid-grey images of low dynamic range (v-prediction checkpoints whose scheduler config the program
    overrides). The table of levels keeps signal at its end, up to the 0.0047 of Stable Diffusion with strength 1,
    by the inverse of Algorithm 1 of Lin et al. 2024, so levels and times no longer belong together.
    """

    name = "ignored-zero-snr"
    fault_id = "F55"
    modifies = stages = (Kind.DENOISER,)
    blames = _BLAMES
    words = ("noise schedule", "terminal")
    fault_class = "noise schedule"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        schedule = _discrete(self, part)
        times = torch.arange(schedule.steps or 0, dtype=torch.float64, device="cpu")
        alpha = schedule.level(times).normalised().alpha
        if float(alpha[-1]) > _NO_SIGNAL:
            raise self.refusal(
                part, f"its training kept signal at the last step (alpha {float(alpha[-1]):.3f})"
            )
        last = self.strength * _ALPHA_OF_SD
        plain = alpha * (alpha[0] - last) / alpha[0] + last
        table = 0.5 * torch.log1p(-plain.square()) - plain.log()
        _tell_from_table(self, part, table, 1.0)


@final
class SwappedSinCos(Fault):
    """F37: the halves of the sinusoidal time embedding are swapped: sines where the network expects cosines.

    Met as sharp but incoherent images (a fused kernel for the embedding). The module is found by its name, which
    the networks of this field share: every linear layer `linear_1` below something with "time" in its name.
    Strength is the share of the frequencies, fast ones first.
    """

    name = "swapped-sin-cos"
    fault_id = "F37"
    modifies = stages = (Kind.DENOISER,)
    words = ("time embedding",)
    fault_class = "convention of the time embedding"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        layers = [
            module
            for name, module in part.named_modules()
            if isinstance(module, nn.Linear) and name.endswith("linear_1") and "time" in name
        ]
        if not layers:
            raise self.refusal(part, "it has no time embedding (no `linear_1` below a module of time)")
        strength = self.strength

        def swap(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            first, second = inputs[0].chunk(2, dim=-1)
            count = math.ceil(strength * first.shape[-1])
            halves = (second[..., :count], first[..., count:], first[..., :count], second[..., count:])
            return (torch.cat(halves, dim=-1), *inputs[1:])

        for layer in layers:
            layer.register_forward_pre_hook(swap)


def _trained(fault: Fault, part: Component) -> Trained:
    trained = getattr(part, "trained", None)
    if not isinstance(trained, Trained):
        raise fault.refusal(part, "it is told the level itself, not a time (it has no `trained`)")
    return trained


def _tell(fault: Fault, part: Component, wrong: Callable[[NoiseLevel, Tensor], Tensor]) -> None:
    """Let the network be told a wrong time, on top of what is wrong already."""
    right = _trained(fault, part)
    part.__dict__["trained"] = ToldWrong(
        right.prediction,
        right.schedule,
        right.time_scale,
        lambda level, _time: wrong(level, right.network_time(level)),
    )


def _discrete(fault: Fault, part: Component) -> NoiseSchedule:
    schedule = _trained(fault, part).schedule
    if schedule.steps is None:
        raise fault.refusal(
            part, f"its training schedule {schedule.name!r} is continuous: it has no table of steps"
        )
    return schedule


def _tell_from_table(fault: Fault, part: Component, table: Tensor, weight: float) -> None:
    """Tell the network the time at which a table of `log(sigma / alpha)`, float64 [T] rising, has the level."""
    scale = _trained(fault, part).time_scale

    def wrong(level: NoiseLevel, time: Tensor) -> Tensor:
        told = scale * _interpolated(-0.5 * level.log_snr, table)
        return torch.lerp(time, told, weight)

    _tell(fault, part, wrong)


def _interpolated(values: Tensor, table: Tensor) -> Tensor:
    """Where values lie in a rising table, as fractional indices, clamped to its ends."""
    inside = values.clamp(float(table[0]), float(table[-1]))
    above = torch.searchsorted(table, inside.contiguous()).clamp(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    return (above - 1) + (inside - low) / (high - low)
