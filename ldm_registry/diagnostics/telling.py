"""Tell a denoiser another time than it would tell itself, while a block runs, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import NoiseLevel, Trained

NetworkTime = Callable[[NoiseLevel], Tensor]
"""Level to what the network's time embedding takes."""
Features = Callable[[Tensor], Tensor]
"""Time features [B, 2 k] to those that are told instead."""

_SMALLEST_TABLE = 8
_UNIT_CIRCLE = 2e-2


@dataclass(frozen=True, slots=True)
class _Told(Trained):
    """What a denoiser believes about its training, with another time."""

    told: NetworkTime | None = None

    def network_time(self, level: NoiseLevel) -> Tensor:
        """What the network is told instead."""
        assert self.told is not None
        return self.told(level)


def keepers(denoiser: nn.Module) -> list[tuple[nn.Module, Trained]]:
    """The modules that know how the network was trained, with what they know."""
    found = [(module, vars(module).get("trained")) for module in denoiser.modules()]
    return [(module, trained) for module, trained in found if isinstance(trained, Trained)]


@contextmanager
def told(denoiser: nn.Module, time: NetworkTime | None, features: Features | None = None) -> Iterator[None]:
    """While the block runs, the network is told other times, or the same ones in other features.

    Args:
        denoiser: As it is again after the block, whatever happens.
        time: None leaves the times.
        features: Applied to whatever looks like the sinusoids of a time; None leaves them.
    """
    known = keepers(denoiser) if time is not None else []
    handles = []
    if features is not None:
        hook = _replacing(features)
        handles = [
            module.register_forward_pre_hook(hook)
            for module in denoiser.modules()
            if isinstance(module, nn.Linear)
        ]
    try:
        for module, trained in known:
            vars(module)["trained"] = _Told(trained.prediction, trained.schedule, trained.time_scale, time)
        yield
    finally:
        for module, trained in known:
            vars(module)["trained"] = trained
        for handle in handles:
            handle.remove()


def is_sinusoids(values: Tensor) -> bool:
    """Whether rows [B, 2 k] are cosines and sines of the same angles, in halves: their squares add up to 1."""
    if values.ndim != 2 or values.shape[1] % 2 or values.shape[1] < 2 * _SMALLEST_TABLE:
        return False
    one, other = values.detach().float().chunk(2, dim=1)
    return bool(((one.square() + other.square() - 1.0).abs() < _UNIT_CIRCLE).all())


def time_features(
    subject: Subject, z: Tensor, level: NoiseLevel, condition: dict[str, Tensor]
) -> Tensor | None:
    """The sinusoids [1 or B, 2 k] that the network computes at a level; None where none can be seen.

    Args:
        subject: Gives the denoiser.
        z: [1, c, h, w] at the level.
        level: Shape [].
        condition: Of z.
    """
    seen: list[Tensor] = []

    def look(values: Tensor) -> Tensor:
        seen.append(values.detach().double().cpu())
        return values

    with told(subject.pipe.denoiser, None, look):
        subject.predict(z, level, condition)
    return seen[0] if seen else None


def _replacing(features: Features) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    def replace(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        first = inputs[0] if inputs else None
        if not isinstance(first, Tensor) or not is_sinusoids(first):
            return None
        return (features(first).to(first), *inputs[1:])

    return replace


def swap_halves(values: Tensor) -> Tensor:
    """Sines where the cosines were, and the other way round."""
    return torch.cat([*reversed(values.chunk(2, dim=1))], dim=1)
