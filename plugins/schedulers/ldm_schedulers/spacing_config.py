"""The part of every sampler's config that says where its noise levels lie."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from ldm_registry.interfaces import ComponentConfig


class SpacingConfig(ComponentConfig):
    """Where the levels lie. `sigma` here means the variance-exploding `sigma / alpha`."""

    steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="N, the number of steps; null for the sampler's own default",
    )
    spacing: Literal["leading", "trailing", "linspace"] = Field(
        default="trailing", description="how N times are picked from the schedule (Table 2, Lin et al. 2024)"
    )
    steps_offset: int = Field(default=0, ge=0, description="added to every `leading` time, in training steps")
    round_times: bool = Field(
        default=False, description="round `linspace` times of a discrete schedule to whole training steps"
    )
    timesteps: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100_001,
        description="the times themselves, falling; in schedule time",
    )
    sigmas: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100_001,
        description="the levels as sigma / alpha, falling; 0 may end it",
    )
    log_snrs: tuple[float, ...] | None = Field(
        default=None, min_length=1, max_length=100_001, description="the levels as log-SNR in nats, rising"
    )
    sigma_spacing: Literal["none", "karras", "exponential", "beta"] = Field(
        default="none",
        description="space sigma / alpha by rho (Eq. 5, Karras et al. 2022), geometrically, or by the quantiles of a "
        "beta distribution (Lee et al. 2024)",
    )
    rho: float = Field(default=7.0, gt=0, description="exponent of `karras`")
    beta_shape: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.6, 0.6), description="the two parameters of the distribution of `beta`, above 0"
    )
    sigma_axis: Literal["ratio", "fraction"] = Field(
        default="ratio",
        description="what sigma_spacing spaces: sigma / alpha, or the noise fraction sigma / (alpha + sigma) of a flow",
    )
    sigma_ends: Literal["schedule", "spacing"] = Field(
        default="schedule",
        description="between which ends sigma_spacing spaces: the schedule's own (or sigma_min and sigma_max), or the "
        "first and the last of the levels that `spacing` and the shifts give",
    )
    sigma_min: float | None = Field(
        default=None,
        gt=0,
        description="smallest sigma / alpha to space from; null for the schedule's cleanest",
    )
    sigma_max: float | None = Field(
        default=None, gt=0, description="largest sigma / alpha to space to; null for the schedule's noisiest"
    )
    final: Literal["zero", "sigma_min", "last"] = Field(
        default="zero",
        description="where the last step leads: no noise, the schedule's cleanest level, or the last listed value",
    )
    shift: float = Field(
        default=1.0, gt=0, description="multiplies sigma / alpha (Eq. 23, Esser et al. 2024)"
    )
    dynamic_shift: Literal["none", "exponential", "linear"] = Field(
        default="none", description="shift by mu, a line through two image sizes: exp(mu) or mu itself"
    )
    base_shift: float = Field(default=0.5, description="mu at `base_image_seq_len` tokens")
    max_shift: float = Field(default=1.15, description="mu at `max_image_seq_len` tokens")
    base_image_seq_len: int = Field(default=256, ge=1, description="tokens of a small image")
    max_image_seq_len: int = Field(default=4096, ge=1, description="tokens of a large image")
    shift_terminal: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="noise fraction sigma / (alpha + sigma) that the last level before the final one is moved to",
    )
    prior: Literal["marginal", "noise"] = Field(
        default="marginal",
        description="what sampling starts from: the marginal of unit-variance data at the first level, or noise of "
        "that level's sigma alone, as k-diffusion starts",
    )
