"""The one table that converts every prediction to a clean estimate, and back.

With `z = alpha * x0 + sigma * epsilon`:

======================  =========================  ==========================================
prediction p            definition                 x0
======================  =========================  ==========================================
`x0`                    x0                         p
`epsilon`               epsilon                    (z - sigma * p) / alpha
`v`                     alpha*epsilon - sigma*x0   (alpha * z - sigma * p) / (alpha**2 + sigma**2)
`velocity`              epsilon - x0               (z - sigma * p) / (alpha + sigma)
`reverse_velocity`      x0 - epsilon               (z + sigma * p) / (alpha + sigma)
`f`                     sigma*x0 - alpha*epsilon   (alpha * z + sigma * p) / (alpha**2 + sigma**2)
======================  =========================  ==========================================
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.vocabulary import Prediction


def to_x0(prediction: Prediction, output: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
    """The clean estimate behind a network's output.

    Args:
        prediction: What the output means.
        output: [B, C, H, W].
        z: The noisy latent that went in, at `level`, same shape.
        level: Shape [] or [B].

    Raises:
        ContractError: `epsilon` at a level without signal (alpha = 0), where x0 cannot be told.
    """
    if prediction is Prediction.X0:
        return output
    alpha, sigma = level.numbers if level.is_single else level.scales(z)
    match prediction:
        case Prediction.EPSILON:
            if not level.has_signal:
                raise ContractError(
                    "an epsilon prediction gives no clean estimate at a level without signal (alpha = 0)",
                    hint="use a schedule whose noisiest level keeps some signal, or a v-prediction denoiser",
                )
            return _plus(z, -sigma, output) / alpha
        case Prediction.V:
            power = alpha**2 + sigma**2
            return _plus(alpha / power * z, -sigma / power, output)
        case Prediction.VELOCITY:
            return _plus(z, -sigma, output) / (alpha + sigma)
        case Prediction.REVERSE_VELOCITY:
            return _plus(z, sigma, output) / (alpha + sigma)
        case Prediction.F:
            power = alpha**2 + sigma**2
            return _plus(alpha / power * z, sigma / power, output)


def from_x0(prediction: Prediction, x0: Tensor, epsilon: Tensor, level: NoiseLevel) -> Tensor:
    """What a network of this prediction type should put out: its training target.

    Args:
        prediction: What the network puts out.
        x0: The clean latent [B, C, H, W].
        epsilon: The noise, same shape.
        level: Shape [] or [B]; for `v` and `f`, normalised to `alpha**2 + sigma**2 = 1`.
    """
    match prediction:
        case Prediction.X0:
            return x0
        case Prediction.EPSILON:
            return epsilon
        case Prediction.V:
            alpha, sigma = level.scales(x0)
            return alpha * epsilon - sigma * x0
        case Prediction.VELOCITY:
            return epsilon - x0
        case Prediction.REVERSE_VELOCITY:
            return x0 - epsilon
        case Prediction.F:
            alpha, sigma = level.scales(x0)
            return sigma * x0 - alpha * epsilon


def to_epsilon(x0: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
    """The noise that goes with a clean estimate: `(z - alpha * x0) / sigma`."""
    alpha, sigma = level.numbers if level.is_single else level.scales(z)
    return _plus(z, -alpha, x0) / sigma


def _plus(x: Tensor, factor: float | Tensor, y: Tensor) -> Tensor:
    """`x + factor * y`, in one kernel where the factor is a number."""
    return torch.add(x, y, alpha=factor) if isinstance(factor, float) else x + factor * y
