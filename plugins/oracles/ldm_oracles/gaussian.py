"""The Gaussian-optimal (Wiener) denoiser: exact when the latents are normally distributed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import final

import torch
from pydantic import Field
from torch import Tensor

from ldm_oracles.covariance import principal_axes
from ldm_oracles.posterior import Posterior, divide, require_shape, scales, single_or_double
from ldm_registry.interfaces import (
    ComponentConfig,
    Condition,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    Trained,
)
from ldm_registry.vocabulary import Prediction


class Covariance(StrEnum):
    """How much of the covariance of the latents an oracle knows."""

    ISOTROPIC = "isotropic"
    DIAGONAL = "diagonal"
    FULL = "full"


class GaussianConfig(ComponentConfig):
    """Config of the denoiser `gaussian`."""

    channels: int = Field(4, ge=1, description="Channels of the latent.")
    size: tuple[int, int] = Field((8, 8), description="(H, W) of the latent; isotropic accepts any.")
    covariance: Covariance = Field(
        Covariance.ISOTROPIC,
        description="isotropic (mean and std below, no weights), diagonal (per value) or full (D x D, D = C*H*W).",
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="Principal axes kept of a full covariance; the others share one variance. None keeps all D.",
    )
    mean: float = Field(0.0, description="Of every latent value, for isotropic; denoiser-space units.")
    std: float = Field(1.0, ge=0, description="Of every latent value, for isotropic; 0 is a point mass.")
    prediction: Prediction = Field(
        Prediction.X0, description="What it puts out, unless the spec says `trained:`."
    )


@final
class GaussianDenoiser(Denoiser):
    """Posterior mean under `x0 ~ N(mu, S)`, at every noise level.

    `E[x0 | z] = mu + alpha S (alpha**2 S + sigma**2 I)^-1 (z - alpha mu)`, the Wiener filter (Eq. 2.116 of
    Bishop 2006), computed along the principal axes of S, where it is a gain for each axis. With a
    `rank`, the axes that were left out share their mean variance, as in probabilistic PCA (Tipping and Bishop
    1999, Eq. 8).

    Args:
        config: Shapes, and the distribution itself when isotropic.
        trained: Its prediction is put out; the schedule is of no account, since it is right at every level.
    """

    name = "gaussian"
    Config = GaussianConfig
    size_multiple = 1
    training_schedule = None
    config: GaussianConfig
    mean: Tensor
    variance: Tensor
    axes: Tensor
    tail: Tensor

    def __init__(self, config: GaussianConfig, trained: Trained | None = None) -> None:
        super().__init__()
        self.prediction = trained.prediction if trained else config.prediction
        self.conditioning: Mapping[str, Conditioning] = {}
        self._adopt(config)
        shape = (config.channels, *config.size)
        if config.covariance is Covariance.DIAGONAL:
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("variance", torch.ones(shape))
        elif config.covariance is Covariance.FULL:
            dimension = config.channels * config.size[0] * config.size[1]
            rank = min(config.rank or dimension, dimension)
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("variance", torch.ones(rank))
            self.register_buffer("axes", torch.eye(dimension, rank))
            self.register_buffer("tail", torch.ones(()))

    def _adopt(self, config: GaussianConfig) -> None:
        self.config = config
        self.latent_space = LatentSpace(config.channels, stride=1)
        self.latent_size = None if config.covariance is Covariance.ISOTROPIC else config.size

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """The Gaussian-optimal prediction; `condition` is not looked at."""
        require_shape(z, self.config.channels, self.latent_size, self.name)
        wide = single_or_double(z)
        return self.posterior(wide, level).output(self.prediction, level, z.dtype)

    def posterior(self, z: Tensor, level: NoiseLevel) -> Posterior:
        """Both posterior means.

        Args:
            z: [B, C, H, W], float32 or float64.
            level: Shape [] or [B].
        """
        alpha, sigma = scales(level, z)
        match self.config.covariance:
            case Covariance.ISOTROPIC:
                variance = z.new_tensor(self.config.std**2)
                return wiener(z, z.new_tensor(self.config.mean), variance, alpha, sigma)
            case Covariance.DIAGONAL:
                return wiener(z, self.mean.to(z), self.variance.to(z), alpha, sigma)
            case Covariance.FULL:
                return self._along_axes(z, alpha, sigma)

    def _along_axes(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Posterior:
        mean, axes, per_sample = self.mean.to(z), self.axes.to(z), alpha.ndim > 0
        alpha_flat, sigma_flat = (alpha.flatten(1), sigma.flatten(1)) if per_sample else (alpha, sigma)
        offset = (z - alpha * mean).flatten(1)
        along = offset @ axes
        gains = wiener_gains(self.variance.to(z), alpha_flat, sigma_flat)
        x0, epsilon = ((gain * along) @ axes.T for gain in gains)
        if axes.shape[1] < axes.shape[0]:
            outside = offset - along @ axes.T
            signal, noise = wiener_gains(self.tail.to(z), alpha_flat, sigma_flat)
            x0, epsilon = x0 + signal * outside, epsilon + noise * outside
        return Posterior(mean + x0.view_as(z), epsilon.view_as(z))

    def fit(self, latents: Tensor, condition: Condition) -> GaussianConfig:
        """Take mean and covariance of latents [N, C, H, W] in, computed in float64 (maximum likelihood: over N).

        Args:
            latents: In denoiser space. With fewer latents than axes, the directions they do not reach have variance 0.
            condition: Not looked at.
        """
        double = latents.detach().to(torch.float64)
        size = (latents.shape[2], latents.shape[3])
        config = self.config.model_copy(update={"channels": latents.shape[1], "size": size})
        match config.covariance:
            case Covariance.ISOTROPIC:
                mean, std = float(double.mean()), float(double.std(correction=0))
                config = config.model_copy(update={"mean": mean, "std": std})
            case Covariance.DIAGONAL:
                self.mean = double.mean(0).to(latents.dtype)
                self.variance = double.var(0, correction=0).to(latents.dtype)
            case Covariance.FULL:
                self.mean = double.mean(0).to(latents.dtype)
                found = principal_axes((double - double.mean(0)).flatten(1), config.rank)
                self.variance, self.axes, self.tail = (part.to(latents.dtype) for part in found)
        self._adopt(config)
        return config


def wiener_gains(variance: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies `z - alpha mu` to give `E[x0 | z] - mu` and `E[epsilon | z]`, for one variance.

    Both denominators are sums of squares, so nothing cancels; without noise and without variance both are 0.
    """
    total = alpha**2 * variance + sigma**2
    return divide(alpha * variance, total), divide(sigma, total)


def wiener(z: Tensor, mean: Tensor, variance: Tensor, alpha: Tensor, sigma: Tensor) -> Posterior:
    """Posterior means when every value of x0 is normal and independent.

    Args:
        z: [B, ...].
        mean: Of x0; broadcasts against z, as do all of the following.
        variance: Of x0.
        alpha: Signal scale.
        sigma: Noise scale.
    """
    offset = z - alpha * mean
    signal, noise = wiener_gains(variance, alpha, sigma)
    return Posterior(mean + signal * offset, noise * offset)
