"""The approximate posterior over raw latents: a Gaussian with a diagonal covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from ldm_registry.interfaces import Generators, randn

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Log-variances are clamped to this range, as the reference implementations do."""


@final
@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """`q(z | x) = N(mean, diag(exp(log_variance)))` (Kingma and Welling 2014, Eq. 9).

    Attributes:
        mean: [B, C, H, W].
        log_variance: [B, C, H, W], within `LOG_VARIANCE_RANGE`.
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> Self:
        """Read [B, 2 C, H, W]: means in the first half of the channels, log-variances in the second."""
        mean, log_variance = moments.chunk(2, dim=1)
        return cls(mean, log_variance.clamp(*LOG_VARIANCE_RANGE))

    def sample(self, generator: Generators | None) -> Tensor:
        """One reparameterised draw for each sample of the batch, [B, C, H, W]."""
        noise = randn(self.mean.shape, generator, device=self.mean.device, dtype=self.mean.dtype)
        return torch.addcmul(self.mean, (0.5 * self.log_variance).exp(), noise)

    def kl_nats(self) -> Tensor:
        """Mean over all latent values of the divergence from N(0, 1), in nats, a scalar >= 0.

        Kingma and Welling 2014, appendix B, divided by the number of values.
        """
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        mean, log_variance = self.mean.to(dtype), self.log_variance.to(dtype)
        return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
