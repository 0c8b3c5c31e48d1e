"""Whether the levels of a sampler are a sequence from noise to data, in one scaling, where the denoiser was trained."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ldm_registry.contracts import LOG_SNR_TOLERANCE_NATS
from ldm_registry.diagnostics.evidence import Healthy, Metric, Suspicion
from ldm_registry.interfaces import NoiseLevels, NoiseSchedule
from ldm_registry.vocabulary import Kind

LATEST_START_NATS = -1.0
"""Log-SNR above which noise alone is no longer a good stand-in for data at the first level."""
PURE_NOISE_NATS = -60.0
"""Stands for minus infinity, which a report cannot hold."""
_SCALING_ERROR = 1e-3


def level_metrics(levels: NoiseLevels, trained: NoiseSchedule | None) -> Iterator[Metric]:
    """Numbers of a sequence of levels.

    Args:
        levels: N + 1.
        trained: What the denoiser was trained under; None for an oracle.
    """
    theory = "theory"
    yield Metric("steps", float(len(levels) - 1), "steps that the sampler takes")
    yield Metric(
        "first_log_snr",
        max(float(levels[0].log_snr), PURE_NOISE_NATS),
        "where sampling starts, nats",
        Healthy(None, LATEST_START_NATS, theory),
    )
    yield Metric(
        "rising_steps", falls(levels), "share of steps that do not get cleaner", Healthy(None, 0.0, theory)
    )
    yield Metric(
        "scaling_error",
        scaling_error(levels),
        "how far the levels are from alpha^2 + sigma^2 = 1, alpha = 1 and alpha + sigma = 1, whichever is nearest",
        Healthy(None, _SCALING_ERROR, theory),
    )
    if trained is not None:
        yield Metric(
            "outside_training_nats",
            outside(levels, trained),
            "how far the levels leave the log-SNR of the training",
            Healthy(None, LOG_SNR_TOLERANCE_NATS, "training schedule"),
        )
    if trained is not None and trained.steps is not None:
        times = trained.time(levels[: len(levels) - 1][0]) if len(levels) < 2 else _times(levels, trained)
        yield Metric(
            "off_grid_steps", float((times - times.round()).abs().max()), "distance from whole training steps"
        )


def _times(levels: NoiseLevels, trained: NoiseSchedule) -> torch.Tensor:
    return torch.stack([trained.time(level) for level in list(levels)[:-1]])


def level_suspicions(levels: NoiseLevels, trained: NoiseSchedule | None) -> Iterator[Suspicion]:
    """What speaks against a sequence of levels; arguments as for `level_metrics`."""
    scheduler = frozenset({Kind.SCHEDULER})
    if not bool((levels.alpha.isfinite() & levels.sigma.isfinite()).all()):
        yield Suspicion(
            scheduler, "noise levels are not finite", 0.97, "alpha or sigma is infinite or not a number"
        )
        return
    share = falls(levels)
    if share > 0:
        text = f"{share:.0%} of the steps lead to a level that is no cleaner"
        yield Suspicion(scheduler, "noise levels do not fall", 0.9, text)
    off = scaling_error(levels)
    if off > _SCALING_ERROR:
        text = f"alpha^2 + sigma^2, alpha and alpha + sigma all leave 1, the nearest by {off:.3g}"
        yield Suspicion(scheduler, "alpha and sigma do not belong together", min(0.95, 0.5 + off), text)
    start = float(levels[0].log_snr)
    if start > LATEST_START_NATS:
        text = f"sampling starts from noise alone at a log-SNR of {start:.2f}, where data still show"
        yield Suspicion(scheduler, "sampling starts at a level that is not noisy enough", 0.6, text)
    if trained is not None:
        beyond = outside(levels, trained)
        if beyond > 2.0 * LOG_SNR_TOLERANCE_NATS:
            text = f"the levels leave the log-SNR of the training by {beyond:.2f} nats"
            yield Suspicion(
                scheduler,
                "visits noise levels that the denoiser was not trained on",
                min(0.8, 0.3 + 0.2 * beyond),
                text,
            )


def falls(levels: NoiseLevels) -> float:
    """Share of steps whose log-SNR does not rise."""
    rise = levels.log_snr.diff()
    return float((~(rise > 0)).double().mean())


def scaling_error(levels: NoiseLevels) -> float:
    """How far the levels leave the nearest of the three scalings."""
    alpha, sigma = levels.alpha, levels.sigma
    errors = (alpha.square() + sigma.square() - 1.0, alpha - 1.0, alpha + sigma - 1.0)
    return min(float(error.abs().max()) for error in errors)


def outside(levels: NoiseLevels, trained: NoiseSchedule) -> float:
    """By how many nats the levels where a denoiser is asked leave those of its training."""
    asked = levels.log_snr[:-1]
    ends = trained.level(torch.tensor(trained.time_range, dtype=torch.float64)).log_snr
    low, high = float(ends.min()), float(ends.max())
    beyond = max(low - float(asked.min()), float(asked.max()) - high, 0.0)
    return beyond if math.isfinite(beyond) else 0.0
