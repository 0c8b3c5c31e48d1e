"""What `ldm train` asks of a component beside its interface: a view with gradients, or to be computed from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ldm_registry.interfaces import ComponentConfig, Condition
from ldm_registry.noise import Generators


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """A differentiable encoding.

    Attributes:
        latent: [B, C, H, W], sampled, in denoiser space.
        losses: Regularisers by name (`kl_nats`: mean over all latent values), each a scalar tensor.
    """

    latent: Tensor
    losses: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """A differentiable decoding.

    Attributes:
        image: [B, C, H, W].
        losses: Regularisers by name (`commitment`, `codebook`), each a scalar tensor.
        statistics: Figures worth logging that carry no gradient (`perplexity`, `dead_codes`).
    """

    image: Tensor
    losses: Mapping[str, Tensor]
    statistics: Mapping[str, float]


@runtime_checkable
class TrainableEncoder(Protocol):
    """An encoder whose `forward` gives what `ldm train encoder` needs."""

    def forward(self, image: Tensor, generator: Generators | None = None) -> EncoderOutput:
        """Encode [B, C, H, W] with gradients, sampling the posterior."""
        ...

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> ComponentConfig:
        """The config under which latents of this measured mean and std (per channel) come out normalised.

        The measurement is of what `encode` gives now; a normalisation that is already there is composed with.
        """
        ...


@runtime_checkable
class TrainableDecoder(Protocol):
    """A decoder whose `forward` gives what `ldm train encoder` needs."""

    def forward(self, latent: Tensor) -> DecoderOutput:
        """Decode [B, C, H, W] with gradients."""
        ...


@runtime_checkable
class Fittable(Protocol):
    """A denoiser that is computed from a set of latents, not trained by gradient descent: an oracle."""

    def fit(self, latents: Tensor, condition: Condition) -> ComponentConfig:
        """Take the statistics of latents [N, C, H, W] in.

        Args:
            latents: In denoiser space.
            condition: Their conditioning, N values each.

        Returns:
            The config of the fitted component; it may differ from the one before (the size of the set).
        """
        ...


def has_training_view(half: nn.Module) -> bool:
    """Whether a half of a codec implements `forward`: every module has one, so the protocols do not tell."""
    return type(half).forward is not nn.Module.forward
