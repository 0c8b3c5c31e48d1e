"""The denoiser that is exact when the latents are a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, final

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from ldm_oracles.expectation_maximisation import fit_mixture
from ldm_oracles.posterior import Posterior, require_shape, scales, single_or_double
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


class GaussianMixtureConfig(ComponentConfig):
    """Config of the denoiser `gaussian-mixture`.

    With `means`, the mixture stands here in full and there are no weights to load; else a checkpoint holds it.
    """

    components: int = Field(2, ge=1, description="K, how many Gaussians.")
    channels: int = Field(4, ge=1, description="Channels of the latent.")
    size: tuple[int, int] = Field((8, 8), description="(H, W) of the latent; with `means`, any is accepted.")
    means: tuple[float, ...] = Field(
        (), description="K numbers: the mean of every latent value in each Gaussian, denoiser-space units."
    )
    stds: tuple[PositiveFloat, ...] = Field(
        (), description="K numbers beside `means`: the std of every value; above 0."
    )
    proportions: tuple[PositiveFloat, ...] = Field(
        (),
        description="K numbers beside `means`: how common each Gaussian is, in any unit. Empty: all alike.",
    )
    isotropic: bool = Field(
        False, description="For fitting: one variance for each Gaussian, not one for each value."
    )
    iterations: int = Field(
        200, ge=1, description="For fitting: at most so many rounds of expectation-maximisation."
    )
    tolerance_nats: float = Field(
        1e-6,
        ge=0,
        description="For fitting: stop when the mean log-likelihood per latent value rises by less.",
    )
    min_std: float = Field(1e-2, gt=0, description="For fitting: floor of every std, denoiser-space units.")
    seed: int = Field(0, ge=0, description="For fitting: of the choice of the first means.")
    prediction: Prediction = Field(
        Prediction.X0, description="What it puts out, unless the spec says `trained:`."
    )

    @model_validator(mode="after")
    def _closed_form_is_complete(self) -> Self:
        lengths = {"means": len(self.means), "stds": len(self.stds)}
        if self.proportions:
            lengths["proportions"] = len(self.proportions)
        wanted = self.components if self.means or self.stds or self.proportions else 0
        wrong = [f"{name} has {length}" for name, length in lengths.items() if length != wanted]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}; give one for each of the {self.components} components, or none"
            )
        return self


@final
class GaussianMixtureDenoiser(Denoiser):
    """Posterior mean under `x0 ~ sum_k pi_k N(mu_k, diag(s_k))`, at every noise level.

    `z` given k is `N(alpha mu_k, alpha**2 s_k + sigma**2)`, so the posterior is again a mixture: of the Wiener
    estimates of the components, weighed by `pi_k N(z; alpha mu_k, alpha**2 s_k + sigma**2)` (section 2.3.9 of
    Bishop 2006). Takes K times the memory of `z`.

    Args:
        config: K and the shapes, or the whole mixture.
        trained: Its prediction is put out; the schedule is of no account, since it is right at every level.
    """

    name = "gaussian-mixture"
    Config = GaussianMixtureConfig
    size_multiple = 1
    training_schedule = None
    config: GaussianMixtureConfig
    log_proportions: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, config: GaussianMixtureConfig, trained: Trained | None = None) -> None:
        super().__init__()
        self.prediction = trained.prediction if trained else config.prediction
        self.conditioning: Mapping[str, Conditioning] = {}
        self._adopt(config)
        if not config.means:
            shape = (config.components, config.channels, *config.size)
            self.register_buffer("log_proportions", torch.zeros(config.components))
            self.register_buffer("means", torch.zeros(shape))
            self.register_buffer("variances", torch.ones(shape))

    def _adopt(self, config: GaussianMixtureConfig) -> None:
        self.config = config
        self.latent_space = LatentSpace(config.channels, stride=1)
        self.latent_size = None if config.means else config.size

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """The mixture-optimal prediction; `condition` is not looked at."""
        require_shape(z, self.config.channels, self.latent_size, self.name)
        wide = single_or_double(z)
        return self.posterior(wide, level).output(self.prediction, level, z.dtype)

    def posterior(self, z: Tensor, level: NoiseLevel) -> Posterior:
        """Both posterior means.

        Args:
            z: [B, C, H, W], float32 or float64.
            level: Shape [] or [B].
        """
        log_proportions, means, variances = self._mixture(z)
        # Every tensor below is [B, K, C, H, W] or broadcasts to it.
        alpha, sigma = (scale[..., None] if scale.ndim else scale for scale in scales(level, z))
        total = (alpha.square() * variances + sigma.square()).clamp_min(torch.finfo(z.dtype).tiny)
        offset = z[:, None] - alpha * means
        log_density = -0.5 * (offset.square() / total + total.log()).sum((2, 3, 4))
        responsibility = torch.softmax(log_proportions + log_density, dim=1)[:, :, None, None, None]
        x0 = responsibility * (means + alpha * variances / total * offset)
        epsilon = responsibility * (sigma / total * offset)
        return Posterior(x0.sum(1), epsilon.sum(1))

    def _mixture(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log proportions [K], means and variances [K, C, H, W] or [K, 1, 1, 1]."""
        config = self.config
        if not config.means:
            return self.log_proportions.to(z), self.means.to(z), self.variances.to(z)
        proportions = z.new_tensor(config.proportions or (1.0,) * config.components)
        means, stds = (z.new_tensor(values).view(-1, 1, 1, 1) for values in (config.means, config.stds))
        return proportions.log(), means, stds.square()

    def fit(self, latents: Tensor, condition: Condition) -> GaussianMixtureConfig:
        """Fit the K Gaussians to latents [N, C, H, W] by expectation-maximisation in float64.

        Args:
            latents: In denoiser space.
            condition: Not looked at.

        Raises:
            SpecError: There are fewer latents than components.
        """
        config = self.config.model_copy(
            update={
                "channels": latents.shape[1],
                "size": (latents.shape[2], latents.shape[3]),
                "means": (),
                "stds": (),
                "proportions": (),
            }
        )
        mixture = fit_mixture(
            latents.detach().to(torch.float64).flatten(1),
            config.components,
            isotropic=config.isotropic,
            iterations=config.iterations,
            tolerance_nats=config.tolerance_nats,
            min_variance=config.min_std**2,
            generator=torch.Generator().manual_seed(config.seed),
        )
        shape = (config.components, *latents.shape[1:])
        self.register_buffer("log_proportions", mixture.log_proportions.to(latents.dtype))
        self.register_buffer("means", mixture.means.view(shape).to(latents.dtype))
        self.register_buffer("variances", mixture.variances.view(shape).to(latents.dtype))
        self._adopt(config)
        return config
