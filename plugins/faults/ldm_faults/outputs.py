"""Faults of what a denoiser's input and output mean."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from ldm_faults.fault import Fault, around
from ldm_registry.interfaces import Component, Condition, Denoiser, DenoiserOutput, NoiseLevel, broadcast
from ldm_registry.prediction import from_x0, to_x0
from ldm_registry.vocabulary import Kind, Prediction

_LEAST = 1e-3
_SIGMA_MAX = 14.6
_DIRECTED = (Prediction.V, Prediction.VELOCITY, Prediction.REVERSE_VELOCITY, Prediction.F)


@final
class EpsilonForV(Fault):
    """F32: the output of one prediction type is read as another: v as epsilon, and epsilon as v.

    Met as oversaturated mush or noise (v-prediction checkpoints of Stable Diffusion 2 and of SDXL run as epsilon).
    Strength mixes the right reading with the wrong one.
    """

    name = "epsilon-for-v"
    fault_id = "F32"
    modifies = stages = (Kind.DENOISER,)
    blames: tuple[Kind, ...] = (Kind.DENOISER, Kind.SCHEDULER)
    words = ("read as",)
    fault_class = "prediction type"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        assert isinstance(part, Denoiser)
        declared, strength = part.prediction, self.strength
        taken = Prediction.V if declared is Prediction.EPSILON else Prediction.EPSILON

        def forward(
            part: Component, original: Any, z: Tensor, level: NoiseLevel, condition: Condition
        ) -> DenoiserOutput:
            output: DenoiserOutput = original(z, level, condition)
            safe = NoiseLevel(level.alpha.clamp_min(_LEAST), level.sigma.clamp_min(_LEAST))
            x0 = to_x0(taken, output.prediction, z, safe)
            alpha, sigma = safe.scales(z)
            # What the network would have to put out for the wrong clean estimate to be the right reading of it.
            wrong = from_x0(declared, x0, (z - alpha * x0) / sigma, safe)
            return DenoiserOutput(
                torch.lerp(output.prediction, wrong.to(output.prediction), strength), output.variance
            )

        around(part, "forward", forward)


@final
class ReversedVelocity(Fault):
    """F71: the velocity points from noise to data where data to noise was meant.

    Met as noise although the training loss falls (flow-matching code bases disagree about the sign). The sign is
    wrong wherever noise makes up more than `1 - strength` of the variance; with strength 1, everywhere.
    """

    name = "reversed-velocity"
    fault_id = "F71"
    modifies = stages = (Kind.DENOISER,)
    blames: tuple[Kind, ...] = (Kind.DENOISER, Kind.SCHEDULER)
    words = ("opposite sign", "the other way")
    fault_class = "sign of the velocity"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        assert isinstance(part, Denoiser)
        if part.prediction not in _DIRECTED:
            raise self.refusal(part, f"it puts out {part.prediction}, which has no direction to reverse")
        least = 1.0 - self.strength

        def forward(
            part: Component, original: Any, z: Tensor, level: NoiseLevel, condition: Condition
        ) -> DenoiserOutput:
            output: DenoiserOutput = original(z, level, condition)
            sign = torch.where(level.normalised().sigma.square() >= least, -1.0, 1.0)
            return DenoiserOutput(broadcast(sign, z) * output.prediction, output.variance)

        around(part, "forward", forward)


@final
class UnscaledInput(Fault):
    """F63: the noisy latent is handed to the network without `scale_model_input`, in units of sigma.

    Met as pure noise (ports of Euler and LMS samplers). The input is too large by `sqrt(1 + (sigma / alpha)**2)`,
    at most 14.6, to the power of strength.
    """

    name = "unscaled-input"
    fault_id = "F63"
    modifies = stages = (Kind.DENOISER,)
    blames: tuple[Kind, ...] = (Kind.DENOISER, Kind.SCHEDULER)
    words = ("input is not scaled", "input of the denoiser is not scaled")
    fault_class = "scale of the network's input"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        strength = self.strength

        def forward(
            part: Component, original: Any, z: Tensor, level: NoiseLevel, condition: Condition
        ) -> DenoiserOutput:
            gain = (1.0 / level.normalised().alpha).clamp(1.0, _SIGMA_MAX) ** strength
            output: DenoiserOutput = original(broadcast(gain, z) * z, level, condition)
            return output

        around(part, "forward", forward)
