"""Which latents known images should have, judged by everything but the encoder's word alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.decoder_inversion import difficulty_db
from ldm_registry.diagnostics.inversion import linear_inverse, optimised
from ldm_registry.diagnostics.latent_statistics import golden_distance, golden_range
from ldm_registry.diagnostics.probe import declared_statistics, mse_per_image, vp_level
from ldm_registry.diagnostics.round_trip import recorded_psnr_db
from ldm_registry.diagnostics.subject import Subject

RECORDED_SLACK_DB = 1.0
"""By how much the round trip of some images may fall short of the recorded mean over others as hard as these."""
LEAST_PSNR_DB = 18.0
"""Of a codec that records nothing: below it, images are hardly recognised."""
SCALE_BAND = (0.8, 1.25)
LARGEST_SHIFT = 0.25
"""In standard deviations."""
DENOISER_MARGIN_NATS = 0.15
STREAM = 71


@dataclass(frozen=True, slots=True)
class Reference:
    """Latents [N, c, h, w] that stand for the truth.

    Attributes:
        latents: float32 on the CPU.
        about: Where they come from, and why they are believed.
    """

    latents: Tensor
    about: str


def references(subject: Subject, images: Tensor) -> tuple[Reference, ...]:
    """The latents of images; two answers where nothing tells the encoder's from the decoder's.

    In pixel space the answer is known. The encoder is believed when it gives the recorded latents, and where none are
    recorded when the decoder makes the images of what it gives, up to mean and scale, which the denoiser's contract
    fixes. Otherwise the decoder is inverted, and believed where the encoder is known to have changed, or if the
    images are within reach of latents of the right mean and scale.

    Args:
        subject: Gives the parts and what is recorded of them.
        images: [N, C, H, W].
    """
    space = subject.pipe.decoder.latent_space
    if space.stride == 1 and space.channels == images.shape[1]:
        return (Reference(images, "the pixels themselves"),)
    own = subject.encode(images)
    is_finite = bool(own.isfinite().all())
    golden = golden_distance(subject)
    is_recorded = golden is not None and golden_range(subject).holds(golden)
    if is_finite and is_recorded:
        return (Reference(own, "the encoder's, which are those recorded"),)
    corrected, is_changed = with_declared_statistics(subject, own)
    if (
        is_finite
        and golden is None
        and psnr_db(subject.decode(corrected), images) >= least_psnr_db(subject, images)
    ):
        about = "the encoder's, brought to the mean and scale that the denoiser expects"
        return (Reference(corrected, about if is_changed else "the encoder's, which decode well"),)
    inverted = invert(subject, images)
    if inverted is None:
        return (
            Reference(corrected if is_finite else torch.zeros_like(own), "the encoder's, for want of others"),
        )
    by_inversion = Reference(inverted, "those that the decoder makes the images of")
    if not is_finite or golden is not None:
        return (by_inversion,)
    within = psnr_db(subject.decode(inverted), images) >= least_psnr_db(subject, images)
    is_plausible = not with_declared_statistics(subject, inverted)[1]
    by_encoder = Reference(
        corrected, "the encoder's, since the decoder cannot make the images of any plausible latents"
    )
    if not (within and is_plausible):
        return (by_encoder,)
    preferred = _denoiser_prefers(subject, inverted, corrected)
    if preferred is None:
        return (by_inversion, by_encoder)
    return (by_inversion,) if preferred is inverted else (by_encoder,)


def with_declared_statistics(subject: Subject, latents: Tensor) -> tuple[Tensor, bool]:
    """Latents brought to the mean and std that the denoiser expects, and whether they were off; few images vary."""
    mean, std = declared_statistics(subject)
    own_std, own_mean = torch.std_mean(latents.double(), dim=(0, 2, 3), keepdim=True)
    ratio, shift = own_std / std, (own_mean - mean) / std
    low, high = SCALE_BAND
    is_near = bool(((ratio > low) & (ratio < high)).all()) and float(shift.abs().max()) < LARGEST_SHIFT
    if is_near:
        return latents, False
    corrected = (latents - own_mean) / own_std.clamp(min=1e-6) * std + mean
    return corrected.float(), True


def invert(subject: Subject, images: Tensor) -> Tensor | None:
    """The latents that the decoder makes the images of; None where it cannot be inverted."""
    shape = subject.pipe.latent_shape
    try:
        start = linear_inverse(subject.decode, images, shape, subject.seed, 16 if subject.quick else 32)
    except RuntimeError:  # a decoder that gives no finite numbers has no inverse
        return None
    steps, budget_s = (10, 1.5) if subject.quick else (30, 5.0)
    found = optimised(subject.pipe.decoder, images, start, steps, budget_s)
    latents = start if found is None else found[0]
    return latents if bool(latents.isfinite().all()) else None


def psnr_db(made: Tensor, true: Tensor) -> float:
    """Mean over images, peak-to-peak range, clamped; -inf where there is no number."""
    mse = mse_per_image(made.clamp(-1, 1), true).clamp(min=1e-10)
    return float((10.0 * torch.log10(4.0 / mse)).mean())


def least_psnr_db(subject: Subject, images: Tensor) -> float:
    """What the round trip of images [N, C, H, W] reaches when it is healthy, given how hard they are."""
    recorded = recorded_psnr_db(subject)
    if recorded is None:
        return LEAST_PSNR_DB
    harder = float(difficulty_db(subject.images).mean() - difficulty_db(images).mean())
    return recorded - harder - RECORDED_SLACK_DB


def _denoiser_prefers(subject: Subject, one: Tensor, other: Tensor) -> Tensor | None:
    """Which latents a denoiser knows better than the others, by its error at medium noise; None if neither."""
    level = vp_level(0.0)
    condition = {name: values[: len(one)] for name, values in subject.condition.items()}
    logs = []
    for latents in (one, other):
        z = level.add_noise(latents, subject.noise(latents, STREAM))
        error = mse_per_image(subject.clean(z, level, condition), latents)
        logs.append(float(error.log().mean()))
    gap = logs[0] - logs[1]
    if not math.isfinite(gap) or abs(gap) < DENOISER_MARGIN_NATS:
        return None
    return one if gap < 0 else other
