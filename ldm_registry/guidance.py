"""Classifier-free guidance: a function around a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from ldm_registry.interfaces import Condition, Denoiser, DenoiserOutput, NoiseLevel


def null_condition(denoiser: Denoiser, batch: int, device: torch.device) -> dict[str, Tensor]:
    """The condition that stands for "none", for each input of the denoiser that has one.

    Args:
        denoiser: Says what its null values are.
        batch: B.
        device: Where the tensors go.
    """
    return {
        name: torch.full((batch,), given.null, dtype=given.dtype, device=device)
        for name, given in denoiser.conditioning.items()
        if given.null is not None
    }


def guided(
    denoiser: Denoiser,
    z: Tensor,
    level: NoiseLevel,
    condition: Condition,
    scale: float,
    null: Condition | None = None,
) -> DenoiserOutput:
    """One guided call; see `Guidance`.

    Args:
        denoiser: The network.
        z: Normalised noisy latent [B, C, H, W].
        level: Normalised, shape [] or [B].
        condition: By name, each [B, ...].
        scale: The guidance scale w.
        null: What stands for no condition, by name, where the denoiser does not say so itself (texts).
    """
    return Guidance.of(denoiser, condition, scale, null)(z, level)


@final
@dataclass(frozen=True, slots=True)
class Guidance:
    """`unconditional + scale * (conditional - unconditional)` in one batched call (Ho and Salimans 2022, Eq. 6).

    Every prediction is affine in x0 for a given `z`, so it does not matter which one is extrapolated. Scale 1
    is the conditional prediction and scale 0 the unconditional one; both take a single forward pass. The conditions
    of a run are put together once.

    Attributes:
        denoiser: The network.
        condition: By name, each [B, ...], or for two predictions [2B, ...], conditional before unconditional.
        scale: The guidance scale w; None where one prediction is all that it takes.
    """

    denoiser: Denoiser
    condition: Condition
    scale: float | None = None

    @classmethod
    def of(
        cls, denoiser: Denoiser, condition: Condition, scale: float, null: Condition | None = None
    ) -> Self:
        """The guidance of a run; arguments as of `guided`."""
        if scale == 1.0 or not condition:
            return cls(denoiser, condition)
        first = next(iter(condition.values()))
        without = {**condition, **null_condition(denoiser, len(first), first.device), **(null or {})}
        if scale == 0.0:
            return cls(denoiser, without)
        both = {name: torch.cat([condition[name], without[name]]) for name in condition}
        return cls(denoiser, both, scale)

    def __call__(self, z: Tensor, level: NoiseLevel) -> DenoiserOutput:
        """Predict.

        Args:
            z: Normalised noisy latent [B, C, H, W].
            level: Normalised, shape [] or [B].

        Returns:
            The guided prediction; the variance is the conditional one.
        """
        if self.scale is None:
            return self.denoiser(z, level, self.condition)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
        twice = level if level.is_single else NoiseLevel(level.alpha.repeat(2), level.sigma.repeat(2))
        output: DenoiserOutput = self.denoiser(torch.cat([z, z]), twice, self.condition)
        conditional, unconditional = output.prediction.chunk(2)
        variance = None if output.variance is None else output.variance.chunk(2)[0]
        return DenoiserOutput(torch.lerp(unconditional, conditional, self.scale), variance)
