"""EQV: does a codec treat every place alike, and keep things where they are?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.round_trip import evenly
from ldm_registry.diagnostics.signatures import psnr_db
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.vocabulary import Kind

IMAGES, IMAGES_QUICK = 6, 2
PROBES, PROBES_QUICK = 12, 6
CODEC = frozenset({Kind.ENCODER, Kind.DECODER})
STREAM = 53

PLACED = Healthy(0.5, None, "a change shows where it was made; calibrated on healthy codecs")
DROP_DB = Healthy(None, 4.0, "calibrated on healthy codecs")
SHIFT_ERROR = Healthy(None, 0.4, "relative; 0 is perfect, 1 and more has nothing in common; calibrated")
TILE = 1e-4
"""Relative difference that rounding makes; the effect of a neighbour is orders of magnitude above it."""

MAPS: dict[str, Callable[[int, int, int, int], tuple[int, int]]] = {
    "mirrored left to right": lambda i, j, h, w: (i, w - 1 - j),
    "upside down": lambda i, j, h, w: (h - 1 - i, j),
    "turned by 180 degrees": lambda i, j, h, w: (h - 1 - i, w - 1 - j),
    "transposed": lambda i, j, h, w: (j, i),
}
"""Where a change at cell (i, j) of an h x w grid shows."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a half of a codec shows what was changed at known cells.

    Attributes:
        placed: Share of the probes that show at their own cell.
        turn: A name that explains most of the others; None where none does.
        response: Mean response around the changed cell [h, w], centred, for a look.
    """

    placed: float
    turn: str | None
    response: Tensor


def measure_codec_symmetry(subject: Subject) -> Measurement:
    """Change one cell and see where it shows; shift, mirror and crop images; decode parts by themselves."""
    begin = time.perf_counter()
    images = evenly(subject.images, IMAGES_QUICK if subject.quick else IMAGES)
    latents = subject.encode(images)
    made = subject.decode(latents)
    title = "Does the codec treat every place alike?"
    if not (bool(latents.isfinite().all()) and bool(made.isfinite().all())):
        return Measurement("EQV", title, CODEC, skipped="the codec's own outputs are not finite")
    seen = {Kind.ENCODER: _encoder_geometry(subject), Kind.DECODER: _decoder_geometry(subject, latents)}
    shifts = {
        Kind.ENCODER: _encoder_shift(subject, images, latents),
        Kind.DECODER: _decoder_shift(subject, latents, made),
    }
    before = float(psnr_db(made, images).mean())
    drops = dict(_drops(subject, images, before))
    tiles = _tile_borders(subject, latents, made)
    metrics = [
        *(
            Metric(f"{kind}_placed_share", one.placed, "changed cells that show at their own place", PLACED)
            for kind, one in seen.items()
        ),
        *(
            Metric(f"{kind}_shift_error", value, "of shifting by a cell, before against after", SHIFT_ERROR)
            for kind, value in shifts.items()
        ),
        *(Metric(f"{name}_drop_db", value, about, DROP_DB) for name, (value, about) in drops.items()),
    ]
    suspicions = [
        *_placement_faults(seen),
        *_shift_faults(shifts, seen),
        *(() if any(one.turn for one in seen.values()) else _drop_faults(drops)),
        *_tile_faults(subject, tiles),
    ]
    pictures = tuple(_picture(kind, one) for kind, one in seen.items())
    return Measurement(
        "EQV",
        title,
        CODEC,
        tuple(metrics),
        tuple(suspicions),
        pictures,
        seconds=time.perf_counter() - begin,
    )


def _cells(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Cells off both axes of symmetry and off the diagonal, spread over the grid; fixed, as a test pattern is."""
    generator = torch.Generator().manual_seed(20)
    order = torch.randperm(height * width, generator=generator).tolist()
    cells = [divmod(index, width) for index in order]
    # A cell that a reflection maps to itself or to its neighbour cannot tell the reflection.
    telling = [
        (i, j)
        for i, j in cells
        if min(abs(2 * i - height + 1), abs(2 * j - width + 1)) > 2 and abs(i - j) > 1
    ]
    return (telling or cells)[:count]


def _encoder_geometry(subject: Subject) -> Geometry:
    stride = subject.pipe.encoder.latent_space.stride
    base = subject.images[:1] * 0.5
    height, width = base.shape[-2] // stride, base.shape[-1] // stride
    cells = _cells(height, width, PROBES_QUICK if subject.quick else PROBES)
    noise = subject.noise(base.expand(len(cells), -1, -1, -1), STREAM).sign() * 0.8
    batch = base.repeat(len(cells), 1, 1, 1)
    for row, (i, j) in enumerate(cells):
        at = (row, slice(None), slice(i * stride, (i + 1) * stride), slice(j * stride, (j + 1) * stride))
        # Half flat, half noise: a change that no encoder smooths away.
        batch[at] = 0.5 * noise[at] - base[(0, *at[1:])].sign()
    latents = subject.encode(torch.cat([base, batch]))
    return _geometry((latents[1:] - latents[:1]).square().sum(1), cells)


def _decoder_geometry(subject: Subject, latents: Tensor) -> Geometry:
    base = latents[:1]
    height, width = base.shape[-2:]
    cells = _cells(height, width, PROBES_QUICK if subject.quick else PROBES)
    batch = base.repeat(len(cells), 1, 1, 1)
    step = 2.0 * latents.std().clamp(min=1e-3)
    for row, (i, j) in enumerate(cells):
        batch[row, :, i, j] -= step * batch[row, :, i, j].sign()
    images = subject.decode(torch.cat([base, batch]))
    stride = images.shape[-1] // width
    change = (images[1:] - images[:1]).square().sum(1, keepdim=True)
    return _geometry(torch.nn.functional.avg_pool2d(change, stride).squeeze(1), cells)


def _geometry(response: Tensor, cells: list[tuple[int, int]]) -> Geometry:
    """Where each response [P, h, w] peaks."""
    height, width = response.shape[-2:]
    peaks = [divmod(int(one.argmax()), width) for one in response]
    placed = sum(peak == cell for peak, cell in zip(peaks, cells, strict=True)) / len(cells)
    hits = {
        name: sum(peak == turn(i, j, height, width) for peak, (i, j) in zip(peaks, cells, strict=True))
        for name, turn in MAPS.items()
        if name != "transposed" or height == width
    }
    moves = [
        ((p - i + height // 2) % height - height // 2, (q - j + width // 2) % width - width // 2)
        for (p, q), (i, j) in zip(peaks, cells, strict=True)
    ]
    common = max(set(moves), key=moves.count)
    if common != (0, 0):
        hits[f"moved by {common[0]} cells down and {common[1]} right"] = moves.count(common)
    best = max(hits, key=lambda name: hits[name])
    turn = best if placed < 0.5 and hits[best] > 0.6 * len(cells) else None
    centred = torch.stack(
        [
            one.roll((height // 2 - i, width // 2 - j), (0, 1))
            for one, (i, j) in zip(response, cells, strict=True)
        ]
    )
    return Geometry(placed, turn, centred.mean(0))


def _encoder_shift(subject: Subject, images: Tensor, latents: Tensor) -> float:
    stride = subject.pipe.encoder.latent_space.stride
    shifted = subject.encode(images.roll(stride, -1))
    return _interior(shifted, latents.roll(1, -1))


def _decoder_shift(subject: Subject, latents: Tensor, made: Tensor) -> float:
    stride = subject.pipe.decoder.latent_space.stride
    return _interior(subject.decode(latents.roll(1, -1)), made.roll(stride, -1))


def _interior(found: Tensor, expected: Tensor) -> float:
    """Relative RMS difference away from the borders, where what was rolled in is no content."""
    height, width = found.shape[-2:]
    kept = (..., slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
    if found.shape != expected.shape:
        return float("inf")
    difference, base = found[kept] - expected[kept], expected[kept]
    spread = (base - base.mean()).square().mean().sqrt().clamp(min=1e-6)
    return float(difference.square().mean().sqrt() / spread)


def _drops(subject: Subject, images: Tensor, before: float) -> Iterator[tuple[str, tuple[float, str]]]:
    """How much worse the round trip gets for images that were changed in a way that should not matter."""
    variants = {
        "mirrored": (images.flip(-1), "round trip of mirrored images"),
        # Beside its own reflection an image has the same statistics, and no new edge.
        "wide": (torch.cat([images, images.flip(-1)], -1), "round trip of images twice as wide as high"),
        "high": (torch.cat([images, images.flip(-2)], -2), "round trip of images twice as high as wide"),
    }
    height, width = images.shape[-2:]
    for name, (given, about) in variants.items():
        try:
            made = subject.decode(subject.encode(given))
        except (LdmError, RuntimeError):
            yield name, (float("inf"), f"{about}, which fails")
            continue
        if made.shape != given.shape:
            yield name, (float("inf"), f"{about}, which come back as {tuple(made.shape[-2:])}")
            continue
        kept = (..., slice(0, height), slice(0, width))
        yield name, (before - float(psnr_db(made[kept], given[kept]).mean()), about)


def _tile_borders(subject: Subject, latents: Tensor, made: Tensor) -> tuple[list[int], list[int]]:
    """Rows and columns of cells across which nothing that the decoder is told has any effect on its picture.

    A decoder that sees the whole has an effect on the neighbours of a cell at least; one that works in separate
    tiles has none beyond the tile's edge.
    """
    height, width = latents.shape[-2:]
    stride = made.shape[-1] // width
    if stride == 1:
        return [], []
    base = latents[:1]
    rows, columns = base.repeat(height - 1, 1, 1, 1), base.repeat(width - 1, 1, 1, 1)
    step = 2.0 * latents.std().clamp(min=1e-3)
    for at in range(1, height):
        rows[at - 1, :, at - 1] -= step * rows[at - 1, :, at - 1].sign()
    for at in range(1, width):
        columns[at - 1, :, :, at - 1] -= step * columns[at - 1, :, :, at - 1].sign()
    images = subject.decode(torch.cat([rows, columns]))
    change = (images - subject.decode(base)).abs() / max(float(made.std()), 1e-6)
    down, right = change[: height - 1], change[height - 1 :]
    return (
        [at for at in range(1, height) if float(down[at - 1, :, at * stride :].max()) < TILE],
        [at for at in range(1, width) if float(right[at - 1, :, :, at * stride :].max()) < TILE],
    )


def _placement_faults(seen: dict[Kind, Geometry]) -> Iterator[Suspicion]:
    for kind, one in seen.items():
        if PLACED.holds(one.placed):
            continue
        why = f"{one.placed:.0%} of the changed cells show at their own place"
        noun = "latents" if kind is Kind.ENCODER else "images"
        if one.turn:
            yield Suspicion(frozenset({kind}), f"the {kind}'s {noun} are {one.turn}", 0.95, why)
        else:
            yield Suspicion(frozenset({kind}), f"the {kind} does not keep things where they are", 0.7, why)


def _shift_faults(shifts: dict[Kind, float], seen: dict[Kind, Geometry]) -> Iterator[Suspicion]:
    for kind, value in shifts.items():
        if not SHIFT_ERROR.holds(value) and seen[kind].turn is None:
            why = f"relative error {value:.2f} when its input is shifted by one cell"
            yield Suspicion(frozenset({kind}), f"the {kind} does not treat all places alike", 0.6, why)


def _drop_faults(drops: dict[str, tuple[float, str]]) -> Iterator[Suspicion]:
    for value, about in drops.values():
        if not DROP_DB.holds(value):
            yield Suspicion(
                CODEC, "the codec does not treat all images alike", 0.5, f"{about}: {value:.1f} dB worse"
            )


def _tile_faults(subject: Subject, borders: tuple[list[int], list[int]]) -> Iterator[Suspicion]:
    if not any(borders):
        return
    stride = subject.pipe.decoder.latent_space.stride
    places = ", ".join(str(at * stride) for at in (borders[0] or borders[1])[:8])
    side = (borders[0] or borders[1])[0] * stride
    why = f"nothing that the latents say on one side of pixel {places} has an effect on the other"
    yield Suspicion(frozenset({Kind.DECODER}), f"the decoder works in separate tiles of {side} px", 0.97, why)


def _picture(kind: Kind, one: Geometry) -> Picture:
    shown = one.response / one.response.max().clamp(min=1e-12) * 2.0 - 1.0
    scale = max(1, 64 // shown.shape[-1])
    image = shown.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None].expand(3, -1, -1)
    alt = f"How the {kind} answers a change of one cell, with that cell in the middle; white is strongest."
    return Picture(f"Response of the {kind}", alt, image.float().contiguous())
