"""What the oracles share: the two posterior means that every prediction is made of.

With `z = alpha * x0 + sigma * epsilon` and a known distribution of x0, the best denoiser in the mean-square
sense puts out the posterior mean. Every prediction is linear in (x0, epsilon) at a given level, so the two means
`E[x0 | z]` and `E[epsilon | z]` give all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import DenoiserOutput, NoiseLevel
from ldm_registry.prediction import from_x0
from ldm_registry.vocabulary import Prediction


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior means at one level.

    Attributes:
        x0: `E[x0 | z]`, [B, C, H, W].
        epsilon: `E[epsilon | z]`, same shape; without noise (sigma = 0) `z` says nothing of epsilon and it is 0.
    """

    x0: Tensor
    epsilon: Tensor

    def output(self, prediction: Prediction, level: NoiseLevel, dtype: torch.dtype) -> DenoiserOutput:
        """What a perfect network of this prediction type puts out.

        Args:
            prediction: What to put out.
            level: Normalised.
            dtype: Of the result.
        """
        return DenoiserOutput(from_x0(prediction, self.x0, self.epsilon, level).to(dtype))


def single_or_double(z: Tensor) -> Tensor:
    """`z` in the precision that an oracle computes in: float64 stays, everything else becomes float32."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def scales(level: NoiseLevel, z: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of shape [] or [B, 1, ...] in the dtype and on the device of `z` [B, ...]."""
    alpha, sigma = level.scales(z)
    return alpha.to(z), sigma.to(z)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 where the denominator is 0; finite in value and in gradient."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def require_shape(z: Tensor, channels: int, size: tuple[int, int] | None, name: str) -> None:
    """Refuse a latent that the oracle knows nothing about.

    Args:
        z: [B, C, H, W].
        channels: C that it knows.
        size: (H, W) that it knows; None accepts any.
        name: Of the oracle.

    Raises:
        ContractError: The shape is another one.
    """
    expected = (channels, *(size or z.shape[2:]))
    if tuple(z.shape[1:]) != expected:
        raise ContractError(
            f"denoiser {name!r} got latents of shape {list(z.shape[1:])}; it knows latents of {list(expected)}",
            hint="fit it to latents of this shape",
        )
