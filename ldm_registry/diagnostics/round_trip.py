"""RT: do known images survive encoder and decoder, and if not, what does the difference look like?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.illustrations import spectra
from ldm_registry.diagnostics.signatures import (
    AffineMap,
    border_excess,
    channel_fit,
    mixing_fit,
    pattern_excess,
    psnr_db,
    seam_period,
    sharpness,
    shift,
)
from ldm_registry.diagnostics.similarity import MISSING, ssim
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.vocabulary import Kind

IMAGES, IMAGES_QUICK = 48, 16
CODEC = frozenset({Kind.ENCODER, Kind.DECODER})

CALIBRATED = "calibrated on healthy codecs of 24 dB and better"
GAIN = Healthy(0.9, 1.1, "a codec keeps contrast; regression to the mean takes its unexplained share away")
OFFSET = Healthy(-0.08, 0.08, "a codec keeps brightness")
MIXING = Healthy(None, 0.15, CALIBRATED)
SHIFT_PX = Healthy(None, 0.3, "a codec keeps positions")
UNEXPLAINED = Healthy(None, 0.25, "a codec that loses a quarter of the variance is of no use")
SEAM = Healthy(None, 2.5, CALIBRATED)
PATTERN = Healthy(None, 3.0, CALIBRATED)
BORDER = Healthy(None, 3.0, CALIBRATED)
OVERSHOOT = Healthy(None, 0.03, CALIBRATED)
SHARPNESS = Healthy(0.1, 2.0, CALIBRATED)
MARGIN_DB = 0.5
"""How far a round trip may stay behind the recorded one beyond sampling error: precision, other machines."""
LOSSLESS_DB = 40.0
"""What a codec reaches whose latents hold as many numbers as its images: bfloat16 alone costs more than the rest."""
VISIBLE_OVERSHOOT = 0.1
"""How far a pixel has to leave [-1, 1] to count as clipped."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Everything that the round trip shows, before it is judged.

    Attributes:
        given: [N, C, H, W].
        made: What came back, unclamped, same shape.
        psnr_db: [N].
        recorded_db: What the contract says; None where nothing does.
        lowest_db: The least mean that the record allows, sampling error included; None where nothing says.
        fit: Each colour by itself.
        mix: All colours together.
        shift_px: (down, right).
        mirrored: The name of the reflection that explains the result better than none does.
        seams_px: Period of seams.
        seam: Strongest excess of a jump at tile borders.
        mesh_px: Period of the strongest regular pattern; 0 where none could be measured.
        mesh: Its excess.
        border: Error at the border relative to the interior.
        overshoot: Share of pixels visibly outside [-1, 1].
        sharpness: Share of fine detail that is left.
    """

    given: Tensor
    made: Tensor
    psnr_db: Tensor
    recorded_db: float | None
    lowest_db: float | None
    fit: AffineMap
    mix: AffineMap
    shift_px: tuple[float, float]
    mirrored: str | None
    seams_px: int | None
    seam: float
    mesh_px: int
    mesh: float
    border: float
    overshoot: float
    sharpness: float

    @property
    def is_below_record(self) -> bool:
        """Whether it is worse than recorded by more than sampling explains."""
        return self.lowest_db is not None and not float(self.psnr_db.mean()) >= self.lowest_db


def measure_round_trip(subject: Subject) -> Measurement:
    """Encode and decode known images and say how they differ.

    Alone it cannot tell the encoder from the decoder; `measure_decoder_inversion` can.
    """
    begin = time.perf_counter()
    count = IMAGES_QUICK if subject.quick else IMAGES
    given = evenly(subject.images, count)
    made = subject.decode(subject.encode(given))
    title = "Do known images survive encoder and decoder?"
    if not bool(made.isfinite().all()):
        share = float((~made.isfinite()).float().mean())
        suspicion = Suspicion(
            CODEC, "the round trip is not finite", 1.0, f"{share:.1%} of the pixels are NaN or infinite"
        )
        metric = Metric(
            "non_finite_share", share, "pixels that are no numbers", Healthy(0.0, 0.0, "arithmetic")
        )
        seconds = time.perf_counter() - begin
        return Measurement("RT", title, CODEC, (metric,), (suspicion,), seconds=seconds)
    trip = round_trip(subject, given, made)
    alike, notes = _similarity(subject, trip)
    return Measurement(
        "RT",
        title,
        CODEC,
        (*_metrics(trip), *alike),
        tuple(_suspicions(trip)),
        (strip(given, made),),
        (spectra(given, made),),
        seconds=time.perf_counter() - begin,
        notes=notes,
    )


def evenly(images: Tensor, count: int) -> Tensor:
    """At most so many of the images, spread over the whole set."""
    if len(images) <= count:
        return images
    return images[torch.linspace(0, len(images) - 1, count).round().long()]


def recorded_psnr_db(subject: Subject) -> float | None:
    """The round trip that the codec's contracts record; the lower one where its halves come from two codecs."""
    tests = [subject.recorded(kind) for kind in (Kind.ENCODER, Kind.DECODER)]
    return min((t.round_trip_psnr_db for t in tests if t and t.round_trip_psnr_db is not None), default=None)


def round_trip(subject: Subject, given: Tensor, made: Tensor) -> RoundTrip:
    """Measure a round trip that has been made; both [N, C, H, W], finite."""
    psnr, recorded = psnr_db(made, given), recorded_psnr_db(subject)
    lowest = None
    if recorded is not None:
        spread = float(psnr.std(correction=0)) if len(psnr) > 1 else 3.0
        # At least the spread that images of one kind have: a broken codec may fail on all of them alike.
        lowest = recorded - MARGIN_DB - 3.0 * max(spread, 3.0) / math.sqrt(len(psnr))
    elif (
        subject.pipe.encoder.latent_space.channels
        >= given.shape[1] * subject.pipe.encoder.latent_space.stride**2
    ):
        lowest = LOSSLESS_DB
    error = made - given
    stride = subject.pipe.decoder.latent_space.stride
    side = min(given.shape[-2:])
    tiles = [size for size in _powers(max(4, stride), side // 2)]
    seams_px, seam = seam_period(error, tiles, SEAM.high or 0.0)
    meshes = {period: pattern_excess(error, period) for period in _powers(2, min(side // 4, max(8, stride)))}
    meshes = {period: value for period, value in meshes.items() if not math.isnan(value)}
    # A mesh has harmonics; the widest period that stands out is its own.
    mesh_px = max(
        (period for period, value in meshes.items() if not PATTERN.holds(value)),
        default=max(meshes, key=lambda period: meshes[period], default=0),
    )
    return RoundTrip(
        given,
        made,
        psnr,
        recorded,
        lowest,
        channel_fit(given, made),
        mixing_fit(given, made),
        shift(given, made),
        _mirrored(given, made),
        seams_px,
        seam,
        mesh_px,
        meshes.get(mesh_px, 0.0),
        border_excess(error, given, max(1, side // 16)),
        float((made.abs() > 1.0 + VISIBLE_OVERSHOOT).float().mean()),
        sharpness(given, made),
    )


def signature(trip: RoundTrip) -> str | None:
    """What the round trip looks like, in words; None where it looks healthy."""
    return next((fault for fault, _, _ in _faults(trip)), None)


def strip(given: Tensor, made: Tensor, amplify: float = 4.0, columns: int = 6) -> Picture:
    """Originals, what came back, and the difference made plain, in three rows."""
    shown = evenly(torch.stack([given, made, ((made - given) * amplify)], 1), columns).clamp(-1, 1).float()
    rows = [torch.cat(list(shown[:, row]), dim=-1) for row in range(3)]
    image = torch.cat(rows, dim=-2)
    alt = (
        "Top: the images that went in. Middle: what came back. Bottom: the difference, "
        f"{amplify:g} times as strong, grey where there is none."
    )
    return Picture(
        "Round trip", alt, image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    )


def _powers(low: int, high: int) -> Iterator[int]:
    while low <= high:
        yield low
        low *= 2


REFLECTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mirrored left to right": lambda images: images.flip(-1),
    "upside down": lambda images: images.flip(-2),
    "turned by 180 degrees": lambda images: images.flip(-1, -2),
    "transposed (height and width swapped)": lambda images: (
        images.mT if images.shape[-1] == images.shape[-2] else images
    ),
}


def _mirrored(given: Tensor, made: Tensor) -> str | None:
    plain = mixing_fit(given, made).unexplained
    rest = {name: mixing_fit(turn(given), made).unexplained for name, turn in REFLECTIONS.items()}
    best = min(rest, key=lambda name: rest[name])
    return best if rest[best] < 0.6 * plain and plain > 0.1 else None


def _metrics(trip: RoundTrip) -> Iterator[Metric]:
    limit = (
        None
        if trip.lowest_db is None
        else Healthy(
            trip.lowest_db,
            None,
            "contract less three standard errors; no loss without compression",
        )
    )
    yield Metric("psnr_db", float(trip.psnr_db.mean()), "how well images come back, mean over images", limit)
    if trip.recorded_db is not None:
        yield Metric("recorded_psnr_db", trip.recorded_db, "what the checkpoint's contract recorded")
    yield Metric("contrast", trip.fit.gain, "a of out = a * in + b, mean over colours", GAIN)
    yield Metric(
        "brightness_offset", _largest(trip.fit.offset), "b of out = a * in + b, largest of any colour", OFFSET
    )
    yield Metric("colour_mixing", trip.mix.mixing, "off-diagonal share of the 3 x 3 colour fit", MIXING)
    yield Metric("shift_px", math.hypot(*trip.shift_px), "how far the picture has moved", SHIFT_PX)
    yield Metric(
        "unexplained_share", trip.mix.unexplained, "variance that no colour change explains", UNEXPLAINED
    )
    yield Metric("seam_excess", trip.seam, "jump of the error at the borders of tiles, 1 is ordinary", SEAM)
    yield Metric(
        "mesh_excess",
        trip.mesh,
        f"power of the error in a regular pattern ({trip.mesh_px} px), 1 is ordinary",
        PATTERN,
    )
    yield Metric("border_excess", trip.border, "error along the border relative to the interior", BORDER)
    yield Metric("clipped_share", trip.overshoot, "pixels visibly outside [-1, 1]", OVERSHOOT)
    yield Metric("sharpness", trip.sharpness, "fine detail that is left, 1 is all", SHARPNESS)


def _similarity(subject: Subject, trip: RoundTrip) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """SSIM, which suspects nobody; a note where its library is missing. Too slow to import for a quick diagnosis."""
    if subject.quick:
        return (), ()
    try:
        value = ssim(trip.made, trip.given)
    except ImportError:
        return (), (MISSING,)
    about = "structural similarity (torchmetrics), mean over images, 1 for equal ones"
    return (() if value is None else (Metric("ssim", value, about),)), ()


def _suspicions(trip: RoundTrip) -> Iterator[Suspicion]:
    mean = float(trip.psnr_db.mean())
    behind = f"round trip {mean:.1f} dB" + (
        f", recorded {trip.recorded_db:.1f} dB" if trip.recorded_db is not None else ""
    )
    found = [Suspicion(CODEC, fault, strength, f"{why}; {behind}") for fault, strength, why in _faults(trip)]
    yield from found
    if not found and trip.is_below_record:
        yield Suspicion(CODEC, "images come back worse than recorded, without a plain signature", 0.8, behind)
    elif not found and not UNEXPLAINED.holds(trip.mix.unexplained):
        share = f"{trip.mix.unexplained:.0%} of the variance is lost"
        yield Suspicion(CODEC, "images hardly come back", 0.8, f"{share}; {behind}")


def _faults(trip: RoundTrip) -> Iterator[tuple[str, float, str]]:
    if trip.mirrored:
        yield f"images come back {trip.mirrored}", 0.95, "the reflected image explains the result far better"
        return
    marks = [*_marks(trip)]
    yield from marks
    # Fits mean little for a result that has little to do with its input.
    if trip.mix.unexplained < 0.5 and not marks:
        yield from _colours(trip)


def _marks(trip: RoundTrip) -> Iterator[tuple[str, float, str]]:
    """What leaves a mark at certain places or frequencies."""
    if _is_moved(trip):
        down, right = trip.shift_px
        moved = math.hypot(down, right)
        why = f"{down:+.2f} px down, {right:+.2f} px right"
        yield f"images are shifted by {moved:.1f} px", min(0.95, 0.6 + moved / 4), why
    if not PATTERN.holds(trip.mesh):
        why = f"{trip.mesh:.1f} times the power nearby"
        yield f"a mesh of period {trip.mesh_px} px over every image", 0.85, why
    elif trip.seams_px is not None and not SEAM.holds(trip.seam):
        why = f"the error jumps {trip.seam:.1f} times as much at tile borders"
        yield f"seams of period {trip.seams_px} px", 0.9, why
    if not BORDER.holds(trip.border):
        why = f"error there {trip.border:.1f} times the interior's"
        yield "images are damaged along their border", 0.7, why
    # A small codec blurs, so that only a record tells; added detail needs none.
    is_noisy = trip.sharpness > (SHARPNESS.high or 0)
    if is_noisy or (trip.is_below_record and not SHARPNESS.holds(trip.sharpness)):
        word = "blurred" if trip.sharpness < 1 else "noisy or over-sharpened"
        yield f"images come back {word}", 0.8, f"{trip.sharpness:.2f} of the fine detail"


def _is_moved(trip: RoundTrip) -> bool:
    """Whether the picture moved: by whole pixels if moving it back helps, by less if nothing else is wrong."""
    moved = math.hypot(*trip.shift_px)
    if moved < 0.75:
        return not SHIFT_PX.holds(moved) and trip.mix.unexplained < 0.2
    back = trip.given.roll((round(trip.shift_px[0]), round(trip.shift_px[1])), (-2, -1))
    return mixing_fit(back, trip.made).unexplained < 0.7 * trip.mix.unexplained


def _colours(trip: RoundTrip) -> Iterator[tuple[str, float, str]]:
    permuted = trip.mix.permutation()
    mixes = trip.mix.unexplained < 0.7 * trip.fit.unexplained
    if permuted and mixes:
        order = ", ".join(str(index) for index in permuted)
        yield f"colour channels are swapped (out takes {order})", 0.95, f"mixing {trip.mix.mixing:.2f}"
    elif mixes and not MIXING.holds(trip.mix.mixing):
        yield "colour channels are mixed", 0.9, f"off-diagonal share {trip.mix.mixing:.2f}"
    else:
        yield from _tone(trip)


def _tone(trip: RoundTrip) -> Iterator[tuple[str, float, str]]:
    gain, offset = trip.fit.gain, float(trip.fit.offset.mean())
    said = f"out = {gain:.2f} * in {offset:+.2f}"
    # Regression to the mean takes the unexplained share off the contrast of any lossy result.
    expected = 1.0 - trip.fit.unexplained
    if abs(gain - 0.5) < 0.09 and abs(offset - 0.5) < 0.12:
        yield "half contrast and lifted black: pixels are taken as [0, 1] instead of [-1, 1]", 0.95, said
    elif abs(gain - 0.5) < 0.09 and abs(offset + 0.5) < 0.12:
        yield "half contrast and lowered white: pixels are taken as [-1, 0] instead of [-1, 1]", 0.9, said
    elif abs(gain - 2.0) < 0.4 and abs(abs(offset) - 1.0) < 0.3:
        yield "double contrast: pixels in [0, 1] are mapped to [-1, 1] twice", 0.9, said
    elif gain < -0.3:
        yield "images come back inverted (negative)", 0.95, said
    elif not GAIN.holds(gain) and abs(gain - expected) > 0.08:
        yield f"contrast is multiplied by {gain:.2f}", 0.8, said
    elif not OFFSET.holds(_largest(trip.fit.offset)) and abs(gain - expected) < 0.08 > trip.fit.unexplained:
        shifts = ", ".join(f"{value:+.2f}" for value in trip.fit.offset.tolist())
        yield f"brightness or colour is shifted by ({shifts})", 0.8, said
    elif trip.is_below_record and not OVERSHOOT.holds(trip.overshoot):
        share = f"{trip.overshoot:.1%} of the pixels are outside [-1, 1]"
        yield "the range of pixels is exceeded", 0.6, share


def _largest(values: Tensor) -> float:
    return float(values[values.abs().argmax()])
