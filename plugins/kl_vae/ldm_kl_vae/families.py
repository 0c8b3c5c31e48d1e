"""How the published autoencoders of this class normalise their latents, for files that do not say it themselves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def _family(
    scaling_factor: float,
    *,
    shift_factor: float | None = None,
    latents_mean: tuple[float, ...] | None = None,
    latents_std: tuple[float, ...] | None = None,
    latent_std: float = 1.0,
) -> dict[str, Any]:
    return {
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "latents_mean": latents_mean,
        "latents_std": latents_std,
        "_latent_std": latent_std,
    }


FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sd1": _family(0.18215),
        "sd2": _family(0.18215),
        "sdxl": _family(0.13025),
        "sd3": _family(1.5305, shift_factor=0.0609),
        "flux": _family(0.3611, shift_factor=0.1159),
        # Trained in the framework of Karras et al. 2022 with sigma_data = 0.5: the factor gives latents of that spread.
        "playground-v2.5": _family(
            0.5,
            latents_mean=(-1.6574, 1.886, -1.383, 2.5155),
            latents_std=(8.4927, 5.9022, 6.5498, 5.2299),
            latent_std=0.5,
        ),
    }
)
"""Keys of the config by family; each states the whole normalisation, so that it replaces any other.

The numbers are those of the `config.json` files that were published with the weights.
"""
