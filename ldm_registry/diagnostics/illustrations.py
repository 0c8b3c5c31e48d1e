"""Pictures and diagrams that several measurements show of what they looked at; none of them decides anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Curve, Picture
from ldm_registry.diagnostics.sampler_run import run
from ldm_registry.diagnostics.signatures import power_spectrum
from ldm_registry.interfaces import NoiseLevel, Scheduler

CELL_PX = 64
"""Latents are enlarged to about this side, so that their cells can be seen."""
LATENT_RANGE = 3.0
"""Latents have unit variance: white is +3, black -3."""
CARRIED = 3
"""Images that are carried through a sampler."""
SNAPSHOTS = 7


def spectra(given: Tensor, made: Tensor) -> Curve:
    """Power of images, of what came back and of the difference, against frequency; all [N, C, H, W]."""
    lines = {
        "known images": power_spectrum(given),
        "what came back": power_spectrum(made),
        "difference": power_spectrum(made - given),
    }
    return Curve("Spectrum", "frequency (cycles per pixel)", "power", lines, log_y=True)


def by_level(
    states: Mapping[float, Tensor], estimates: Mapping[float, Tensor], true: Tensor, extent: float
) -> Picture | None:
    """What the denoiser saw and what it made of it, a column for each log-SNR; None where it cannot be drawn.

    Args:
        states: [c, h, w] by log-SNR in nats.
        estimates: The clean estimates of the same, [c, h, w].
        true: [c, h, w].
        extent: What is drawn white.
    """
    rows = (
        [states[level] for level in estimates],
        [estimates[level] for level in estimates],
        [true] * len(estimates),
    )
    if not rows[0] or not all(bool(one.isfinite().all()) for row in rows for one in row):
        return None
    image = torch.cat([torch.cat([_drawn(one, extent) for one in row], dim=-1) for row in rows], dim=-2)
    levels = ", ".join(f"{level:g}" for level in estimates)
    kind = "Pixels" if extent == 1.0 else "The first latent channels as colours"
    alt = (
        f"{kind}, columns are log-SNRs of {levels} nats. Top: the noisy input. Middle: the denoiser's estimate."
        " Bottom: the truth."
    )
    return Picture("Clean estimates by noise level", alt, image)


def carried(scheduler: Scheduler, images: Tensor, noise: Tensor, extent: float, seed: int) -> Picture | None:
    """Known images as the sampler carries them from noise, when every clean estimate is handed to it exactly.

    Args:
        scheduler: The sampler.
        images: [N, C, H, W] in [-1, 1].
        noise: Standard normal, same shape.
        extent: What the images are scaled to, the range of the data that the sampler is for.
        seed: Of the noise that the sampler adds.
    """
    known = images.double() * extent

    def exact(z: Tensor, level: NoiseLevel) -> Tensor:
        return known

    levels = scheduler.levels()
    start = levels[0].add_noise(known, noise.double())
    steps = run(scheduler, exact, start, seed).steps
    if not steps:
        return None
    chosen = torch.linspace(0, len(steps) - 1, min(SNAPSHOTS, len(steps))).round().int().tolist()
    states = [
        start / float(levels[0].std),
        *(_unscaled(steps[index].z, steps[index].level) for index in chosen),
    ]
    if not all(bool(state.isfinite().all()) for state in states):
        return None
    columns = [torch.cat([_drawn(one, extent) for one in state], dim=-2) for state in states]
    alt = (
        f"{len(known)} known images, from the first state on the left to the last on the right, which should be the"
        " images themselves."
    )
    return Picture("What the sampler makes of exact estimates", alt, torch.cat(columns, dim=-1))


def codebook_map(counts: Sequence[int]) -> Picture:
    """Each code as a square: black where no cell chose it, white where most did, by the logarithm of the count."""
    values = torch.tensor(counts, dtype=torch.float32)
    side = math.ceil(math.sqrt(len(values)))
    shade = torch.full((side * side,), -1.0)
    shade[: len(values)] = torch.log1p(values) / math.log1p(max(float(values.max()), 1.0)) * 2.0 - 1.0
    scale = max(1, 4 * CELL_PX // side)
    image = shade.view(1, side, side).repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    used = int((values > 0).sum())
    alt = f"Each square is a code: black is unused, white is used most; {used} of {len(values)} are in use."
    return Picture("Use of the codebook", alt, image.expand(3, -1, -1).contiguous())


def codebook_ranks(counts: Sequence[int]) -> Curve:
    """The share of cells that each code takes, the most used first, beside equal shares."""
    total, size = max(sum(counts), 1), len(counts)
    ordered = sorted(counts, reverse=True)
    ranks = sorted({*range(0, size, max(1, size // 32)), size - 1})
    line = tuple((float(rank + 1), ordered[rank] / total) for rank in ranks)
    equal = ((1.0, 1.0 / size), (float(size), 1.0 / size))
    return Curve(
        "Shares of the codes",
        "rank",
        "share of the cells",
        {"codes": line, "equal shares": equal},
        log_y=True,
    )


def _drawn(values: Tensor, extent: float) -> Tensor:
    """[c, h, w] as [3, H, W] in [-1, 1], enlarged by whole pixels."""
    shown = (values.detach().float().cpu() / extent).clamp(-1, 1)
    shown = shown[:3] if len(shown) >= 3 else shown[:1].expand(3, -1, -1)
    scale = max(1, CELL_PX // shown.shape[-1])
    return shown.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def _unscaled(z: Tensor, level: NoiseLevel) -> Tensor:
    """A state as noise of std 1 at most would show it: variance-exploding ones are brought into the range of data."""
    return z / max(float(level.std), float(level.alpha), 1e-12) if float(level.std) > 1.0 else z
