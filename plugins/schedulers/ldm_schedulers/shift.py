"""Shifts of the noise with the size of the image, static or from the number of tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_schedulers.spacing_config import SpacingConfig


def shifted(config: SpacingConfig, ratios: Tensor, tokens: int | None) -> Tensor:
    """Shift levels, then stretch them so that the last one has the terminal noise fraction.

    Shifting by a factor multiplies sigma / alpha by it (Eq. 23, Esser et al. 2024); the stretch is that of LTX-Video.

    Args:
        config: Says how.
        ratios: `log(sigma / alpha)`, float64 [N].
        tokens: Patches that the denoiser sees; None where that is unknown.

    Raises:
        SpecError: The factor is not positive, or there is nothing to stretch.
    """
    ratios = ratios + math.log(config.shift)
    if config.dynamic_shift != "none" and tokens is not None:
        ratios = ratios + _log_factor(config, tokens)
    if config.shift_terminal is None:
        return ratios
    signal = torch.sigmoid(-ratios)
    if float(signal[-1]) == 0.0:
        raise SpecError(
            "shift_terminal stretches the levels until the last one has this noise fraction",
            ["got a last level without signal, which no stretch moves"],
            "take more than 1 step, or remove shift_terminal",
        )
    signal = signal * ((1.0 - config.shift_terminal) / signal[-1])
    return torch.log1p(-signal) - signal.log()


def _log_factor(config: SpacingConfig, tokens: int) -> float:
    """Logarithm of the factor for an image of this many tokens."""
    rise, run = config.max_shift - config.base_shift, config.max_image_seq_len - config.base_image_seq_len
    mu = config.base_shift + rise / run * (tokens - config.base_image_seq_len)
    if config.dynamic_shift == "exponential":
        return mu
    if mu <= 0:
        raise SpecError(
            "dynamic_shift: linear multiplies the noise by mu",
            [f"got mu = {mu:g} at {tokens} tokens, expected more than 0"],
            "raise base_shift, or use dynamic_shift: exponential",
        )
    return math.log(mu)
