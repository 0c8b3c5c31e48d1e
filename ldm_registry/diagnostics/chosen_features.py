"""Features that the user chooses for the quality of samples: an encoder of theirs, or any function of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Encoder
from ldm_registry.pipeline import placement

Features = Encoder | Callable[[Tensor], Tensor]
"""An encoder, whose latents are pooled, or images [N, C, H, W] in [-1, 1] to vectors [N, D]."""
BATCH = 16


@dataclass(frozen=True, slots=True)
class ChosenFeatures:
    """Features with what to call them.

    Attributes:
        name: Of the encoder or the function.
        features: What computes them.
    """

    name: str
    features: Features

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """float64 [N, D] on the CPU.

        Args:
            images: [N, C, H, W]; clamped to [-1, 1], as images are when they are saved.
        """
        parts = torch.split(images.clamp(-1, 1), BATCH)
        if not isinstance(self.features, Encoder):
            return torch.cat([self.features(part).double().cpu() for part in parts])
        device, dtype = placement(self.features)
        return torch.cat(
            [pooled(self.features.encode(part.to(device, dtype)).double().cpu()) for part in parts]
        )


def pooled(latents: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over all places; the mean alone where there is one place.

    Args:
        latents: [N, c, h, w].

    Returns:
        [N, 2c], or [N, c].
    """
    places = latents.flatten(2)
    mean = places.mean(-1)
    return mean if places.shape[-1] == 1 else torch.cat([mean, places.std(-1, correction=0)], dim=1)


def chosen(features: Features, images: Tensor) -> ChosenFeatures:
    """The features, once they have been tried.

    Args:
        features: An encoder or a function.
        images: [N, C, H, W], some like those to come.

    Raises:
        SpecError: They do not fit images of this kind.
    """
    channels, height, width = images.shape[1:]
    if isinstance(features, Encoder):
        name = features.name
        problems = _misfits(features, channels, height, width)
        if problems:
            raise SpecError(f"encoder {name!r} cannot give features of these images", problems)
    elif callable(features):
        name = getattr(features, "__name__", type(features).__name__)
    else:
        raise SpecError(
            f"features are an encoder or a function of images; got {type(features).__name__}",
            hint="`ldm.load_component('encoder', FOLDER)` loads one",
        )
    found = ChosenFeatures(name, features)
    tried = images[:2]
    try:
        vectors = found(tried)
    except Exception as error:  # whatever a network of somebody else's raises
        raise SpecError(
            f"features of {name!r} failed on images of {channels} x {height} x {width}",
            [f"{type(error).__name__}: {error}"],
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(tried) or not bool(vectors.isfinite().all()):
        finite = "" if bool(vectors.isfinite().all()) else ", not finite"
        raise SpecError(
            f"features of {name!r} are no vectors: expected finite [{len(tried)}, D], got {list(vectors.shape)}{finite}"
        )
    return found


def _misfits(encoder: Encoder, channels: int, height: int, width: int) -> list[str]:
    problems = []
    if encoder.image_channels != channels:
        problems.append(f"it takes images of {encoder.image_channels} channels; these have {channels}")
    stride = encoder.latent_space.stride
    if height % stride or width % stride:
        problems.append(f"it takes multiples of {stride} pixels; these are {height} x {width}")
    return problems
