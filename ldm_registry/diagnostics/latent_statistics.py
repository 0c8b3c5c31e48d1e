"""LAT: do the encoder's latents look as the denoiser expects them?"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.data import read_images, to_unit
from ldm_registry.diagnostics.codebook_statistics import codebook_faults, codebook_metrics, codebook_usage
from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.illustrations import codebook_map, codebook_ranks
from ldm_registry.diagnostics.round_trip import evenly
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.pipeline import placement
from ldm_registry.vocabulary import Kind

IMAGES, IMAGES_QUICK = 64, 16
ENCODER = frozenset({Kind.ENCODER})
GOLDEN_IMAGES = 2
"""The first images of the validation set, whose latents are a codec's golden output."""

RMS = Healthy(0.7, 1.4, "a denoiser's latents have unit variance; image sets differ by less")
GOLDEN = Healthy(None, 0.02, "contract: golden output, rounded to 3 decimals")
GOLDEN_HALF = Healthy(None, 0.2, "contract: golden output; the stage runs in half precision")
LEVELS = Healthy(None, 0.2, "a continuous encoder hardly ever repeats a number")
DEAD_STD = 0.05
"""A channel below this standard deviation carries nothing."""
EFFECT = Healthy(None, 0.35, "mean shift in standard deviations; image sets of one kind differ by less")
RATIO = Healthy(0.75, 1.33, "standard deviation over the recorded one; image sets of one kind differ by less")
OUTLIERS = Healthy(None, 0.01, "cells beyond 8 robust standard deviations; calibrated on healthy codecs")


@dataclass(frozen=True, slots=True)
class Moments:
    """Per channel, in denoiser space.

    Attributes:
        mean: [C].
        std: [C].
        expected_mean: [C], the contract's, or 0.
        expected_std: [C], the contract's, or 1.
        is_recorded: Whether a contract says what to expect.
    """

    mean: Tensor
    std: Tensor
    expected_mean: Tensor
    expected_std: Tensor
    is_recorded: bool

    @property
    def effect(self) -> Tensor:
        """Shift of the mean in expected standard deviations [C] (Cohen's d)."""
        return (self.mean - self.expected_mean) / self.expected_std

    @property
    def ratio(self) -> Tensor:
        """Standard deviation over the expected one [C]."""
        return self.std / self.expected_std

    @property
    def kl_nats(self) -> float:
        """Mean over channels of the divergence of N(mean, std) from what is expected; 0 for a perfect match."""
        ratio = self.ratio.clamp(min=1e-4).square()
        return float(0.5 * (ratio + self.effect.square() - 1.0 - ratio.log()).mean())


def measure_latent_statistics(subject: Subject) -> Measurement:
    """Compare latents with unit variance and with what the contract recorded, and look at their shape."""
    begin = time.perf_counter()
    images = evenly(subject.images, IMAGES_QUICK if subject.quick else IMAGES)
    latents = subject.encode(images)
    title = "Are the encoder's latents what the denoiser was trained on?"
    if not bool(latents.isfinite().all()):
        share = float((~latents.isfinite()).float().mean())
        metric = Metric(
            "non_finite_share", share, "latents that are no numbers", Healthy(0.0, 0.0, "arithmetic")
        )
        suspicion = Suspicion(
            ENCODER, "the encoder's latents are not finite", 1.0, f"{share:.1%} are NaN or infinite"
        )
        return Measurement(
            "LAT", title, ENCODER, (metric,), (suspicion,), seconds=time.perf_counter() - begin
        )
    found = moments(subject, images, latents)
    golden = golden_distance(subject)
    metrics = [*_moment_metrics(found), *_shape_metrics(subject, latents)]
    suspicions = [*_moment_faults(found), *_shape_faults(subject, latents)]
    if golden is not None:
        about = "largest deviation from the latents that the contract recorded"
        metrics.append(Metric("golden_distance", golden, about, golden_range(subject)))
        if not golden_range(subject).holds(golden):
            why = f"the latents of the recorded images differ by up to {golden:.2f}"
            suspicions.append(Suspicion(ENCODER, "the encoder does not give its recorded latents", 0.95, why))
    posterior = posterior_std(subject, images[:8])
    if posterior is not None:
        metrics.append(
            Metric("posterior_std", posterior, "mean of the posterior's spread, in denoiser space")
        )
    usage = codebook_usage(subject.pipe.decoder, latents)
    if usage is not None:
        metrics.extend(codebook_metrics(usage, subject.recorded(Kind.DECODER), len(latents)))
        suspicions.extend(codebook_faults(usage, subject.recorded(Kind.DECODER)))
    pictures, curves = [channels_picture(latents)], []
    if usage is not None:
        pictures.append(codebook_map(usage.counts))
        curves.append(codebook_ranks(usage.counts))
    return Measurement(
        "LAT",
        title,
        ENCODER if usage is None else frozenset({Kind.ENCODER, Kind.DECODER}),
        tuple(metrics),
        tuple(suspicions),
        tuple(pictures),
        tuple(curves),
        seconds=time.perf_counter() - begin,
    )


def moments(subject: Subject, images: Tensor, latents: Tensor) -> Moments:
    """Mean and standard deviation of latents [N, c, h, w] beside what is expected of them.

    That is what the contract recorded; else, in pixel space, the images' own; else 0 and 1.
    """
    std, mean = torch.std_mean(latents.double(), dim=(0, 2, 3), correction=0)
    recorded = None
    if contract := subject.contract(Kind.ENCODER):
        recorded = contract.latent_measured or contract.latent_declared
    if recorded is None or len(recorded.mean) != len(mean):
        if latents.shape == images.shape:
            own_std, own_mean = torch.std_mean(images.double(), dim=(0, 2, 3), correction=0)
            return Moments(mean, std, own_mean, own_std.clamp(min=1e-3), False)
        return Moments(mean, std, torch.zeros_like(mean), torch.ones_like(std), False)
    expected = torch.tensor([recorded.mean, recorded.std], dtype=torch.float64, device="cpu")
    return Moments(mean, std, expected[0], expected[1].clamp(min=1e-3), True)


def golden_distance(subject: Subject) -> float | None:
    """Largest deviation of the encoder from its recorded golden output.

    None where no contract records one, or where the images that it was recorded on are not at hand.
    """
    recorded, data = subject.recorded(Kind.ENCODER), subject.pipe.spec.data
    if recorded is None or not recorded.golden or recorded.data is None or data is None:
        return None
    try:
        digest = hashlib.sha256(data.images.read_bytes()).hexdigest()
        if not recorded.data.endswith(f"sha256:{digest}"):
            return None
        images = to_unit(read_images(data.images, limit=GOLDEN_IMAGES).images)
    except (OSError, LdmError):
        return None
    latents = subject.encode(images).double()
    golden = torch.tensor(recorded.golden, dtype=torch.float64, device="cpu")
    return float((latents.flatten()[: len(golden)] - golden).abs().max())


def golden_range(subject: Subject) -> Healthy:
    """Where the distance to the golden output lies for an encoder in the precision that it runs in."""
    return GOLDEN if torch.finfo(placement(subject.pipe.encoder)[1]).bits >= 32 else GOLDEN_HALF


@torch.no_grad()
def posterior_std(subject: Subject, images: Tensor) -> float | None:
    """Mean spread of what the encoder samples for one image; None where it samples nothing.

    Measured on samples, not read off the network, so that it holds for every encoder.
    """
    device, dtype = placement(subject.pipe.encoder)
    given = images.to(device, dtype)
    draws = []
    for stream in range(2):
        generators = [
            torch.Generator().manual_seed(subject.seed + 7_919 * (stream + 1) + row)
            for row in range(len(given))
        ]
        draws.append(subject.pipe.encoder.encode(given, generators).double().cpu())
    # Two draws of variance s^2 differ by 2 s^2.
    spread = float((draws[0] - draws[1]).square().mean() / 2.0)
    return math.sqrt(spread) if spread > 0 else None


def repeated_share(values: Tensor) -> float:
    """Share of numbers that occurred before: near 0 for a continuous variable, near 1 for a quantised one."""
    distinct: int = torch.unique(values).numel()
    return 1.0 - distinct / max(1, values.numel())


def outlier_share(latents: Tensor) -> float:
    """Share of cells [h, w] whose norm is beyond 8 robust standard deviations of all cells' norms."""
    norms = latents.double().square().mean(1).sqrt().flatten()
    centre = norms.median()
    spread = 1.4826 * (norms - centre).abs().median() + 0.1 * centre
    return float(((norms - centre).abs() > 8.0 * spread).double().mean()) if float(spread) > 0 else 0.0


def fixed_pattern(latents: Tensor) -> float:
    """How much of the latents' variance is one pattern that all images share, in [0, 1]."""
    values = latents.double()
    per_channel = values - values.mean((0, 2, 3), keepdim=True)
    total = float(per_channel.square().mean())
    return float(per_channel.mean(0).square().mean()) / total if total > 0 else 0.0


def channels_picture(latents: Tensor, rows: int = 4) -> Picture:
    """Each channel of a few latents, grey where it is 0; white and black are three standard deviations."""
    shown = evenly(latents, rows)[:, :8] / 3.0
    scale = max(1, 64 // shown.shape[-1])
    shown = shown.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    image = torch.cat([torch.cat(list(one), dim=-1) for one in shown], dim=-2).clamp(-1, 1).float()
    alt = "Rows are images, columns are latent channels; grey is 0, white is +3 and black -3."
    return Picture("Latent channels", alt, image.expand(3, -1, -1).contiguous())


def _moment_metrics(found: Moments) -> Iterator[Metric]:
    worst_effect = float(found.effect[found.effect.abs().argmax()])
    ratio = found.ratio.clamp(min=1e-6)
    worst_ratio = float(ratio[ratio.log().abs().argmax()])
    signed = Healthy(-(EFFECT.high or 0), EFFECT.high, _source(found))
    rms = float((found.mean.square() + found.std.square()).mean().sqrt())
    yield Metric(
        "latent_rms", rms, "root mean square of all latents", RMS if not found.is_recorded else _around(found)
    )
    yield Metric("mean_shift", worst_effect, "largest shift of a channel's mean, in its std", signed)
    band = RATIO if found.is_recorded else Healthy(0.5, 2.0, RMS.source)
    yield Metric("std_ratio", worst_ratio, "most deviating std of a channel over the expected one", band)


def _source(found: Moments) -> str:
    return "contract: latents measured when it was saved" if found.is_recorded else "unit variance, zero mean"


def _around(found: Moments) -> Healthy:
    expected = float((found.expected_mean.square() + found.expected_std.square()).mean().sqrt())
    return Healthy(0.8 * expected, 1.25 * expected, "contract: latents measured when it was saved")


def _moment_faults(found: Moments) -> Iterator[Suspicion]:
    ratio = found.ratio
    dead = [index for index, std in enumerate(found.std.tolist()) if std < DEAD_STD]
    if dead:
        names = ", ".join(map(str, dead))
        yield Suspicion(
            ENCODER,
            f"latent channels {names} are dead",
            0.9,
            f"their standard deviation is below {DEAD_STD}",
        )
    alive = [index for index in range(len(ratio)) if index not in dead]
    if not alive:
        return
    logs, effects = ratio[alive].log(), found.effect[alive]
    common = float(logs.mean().exp())
    strength = 0.85 if found.is_recorded else 0.5
    band = RATIO if found.is_recorded else Healthy(0.6, 1.7, "")
    if not band.holds(common) and float(logs.std(correction=0)) < 0.25:
        said = f"standard deviations {_listed(found.std)} where {_listed(found.expected_std)} is expected"
        yield Suspicion(ENCODER, f"latents are scaled by {common:.2f}", strength, said)
    elif any(not band.holds(float(value)) for value in ratio[alive]):
        said = f"standard deviations {_listed(found.std)} where {_listed(found.expected_std)} is expected"
        yield Suspicion(ENCODER, "latent channels have the wrong scales", 0.9 * strength, said)
    limit = (EFFECT.high or 0) if found.is_recorded else 1.0
    if float(effects.abs().max()) > limit:
        said = f"means {_listed(found.mean)} where {_listed(found.expected_mean)} is expected"
        yield Suspicion(ENCODER, "latents are shifted", strength, said)


def _listed(values: Tensor) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in values[:16].tolist()) + ")"


def _shape_metrics(subject: Subject, latents: Tensor) -> Iterator[Metric]:
    about = "latent cells far from all others"
    yield Metric(
        "outlier_cell_share", outlier_share(latents), about, OUTLIERS if _compresses(subject) else None
    )
    yield Metric("fixed_pattern_share", fixed_pattern(latents), "variance that all images share")
    yield Metric(
        "repeated_share",
        repeated_share(latents[:16]),
        "latent values that occur more than once",
        LEVELS if _is_continuous(subject) else None,
    )


def _compresses(subject: Subject) -> bool:
    """Whether latents are more than pixels, whose distribution is the images' own business."""
    return subject.pipe.encoder.latent_space.stride > 1


def _is_continuous(subject: Subject) -> bool:
    """Whether the encoder computes something in a precision that leaves room for distinct numbers."""
    bits = torch.finfo(placement(subject.pipe.encoder)[1]).bits
    return _compresses(subject) and bits >= 32


def _shape_faults(subject: Subject, latents: Tensor) -> Iterator[Suspicion]:
    share = outlier_share(latents)
    if _compresses(subject) and not OUTLIERS.holds(share):
        yield Suspicion(ENCODER, "single latent cells stand out", 0.6, f"{share:.1%} of the cells")
    repeated = repeated_share(latents[:16])
    if _is_continuous(subject) and not LEVELS.holds(repeated):
        levels = torch.unique(latents[:16]).numel()
        yield Suspicion(
            ENCODER,
            "latents are quantised",
            0.9,
            f"{latents[:16].numel()} latent values take {levels} levels",
        )
