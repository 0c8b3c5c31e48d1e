"""INV: which latents would make the decoder give back known images, and are they the encoder's?

The round trip cannot tell an encoder from a decoder. Here latents are sought with the decoder alone. If none can be
found, the decoder cannot make the images. If some are found that differ from the encoder's, then one of the two
speaks another language, and a witness says which: the latents that the contract recorded, or the denoiser, which
knows what latents look like.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ldm_registry.diagnostics.codec_explanations import Explanation, explanation, range_words
from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.golden_outputs import differences, tolerance
from ldm_registry.diagnostics.inversion import linear_inverse, optimised
from ldm_registry.diagnostics.latent_link import PLACE, Link
from ldm_registry.diagnostics.latent_statistics import golden_distance, golden_range, moments
from ldm_registry.diagnostics.round_trip import LOSSLESS_DB, evenly, recorded_psnr_db, round_trip, signature
from ldm_registry.diagnostics.signatures import channel_fit, psnr_db
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.vocabulary import Kind, Scaling

IMAGES, IMAGES_QUICK = 6, 4
STEPS, STEPS_QUICK = 11, 6
PROBES, PROBES_QUICK = 20, 16
MARKED_IMAGES = 16
"""For the signature of the round trip, which fewer images would blur."""
BUDGET_S, BUDGET_QUICK_S = 6.0, 2.5
"""For descent on a busy machine or with a large decoder."""
LARGEST_CELLS = 16
"""Larger latents are cropped: a codec works alike everywhere."""

CODEC = frozenset({Kind.ENCODER, Kind.DECODER})
ENCODER, DECODER = frozenset({Kind.ENCODER}), frozenset({Kind.DECODER})

GAIN_DB = Healthy(None, 3.5, "an encoder comes near the best latents; calibrated on healthy codecs")
CEILING_MARGIN_DB = 3.0
"""How far inversion may stay behind the recorded round trip, image difficulty accounted for."""
ROUND_TRIP_MARGIN_DB = 2.2
"""The same for the round trip of these few images."""
USELESS_DB = 17.0
"""A decoder that cannot come nearer than this to any image is broken, whatever it was trained for."""
WITNESS_LOG_SNR = 1.0
INVERSION_NOISE = 0.5
"""By how much the logarithm of a denoiser's error is greater on inverted latents of a healthy codec than on encoded
ones: what descent leaves in them looks like noise."""
HEALTHY_LEANING = 0.36
"""By how much wanted latents of a healthy codec are stranger all in all: 0.20 to 0.53 over three codecs and seeds."""
CERTAIN = 0.97
"""Strength where golden outputs come back under a change of pixels or latents."""
EXACT = 0.01
"""Share of the variance that an explanation by a range alone may leave over."""
DECISIVE = 0.25
STREAM = 41


@dataclass(frozen=True, slots=True)
class Inversion:
    """What was found, before it is judged.

    Attributes:
        images: [N, C, H, W].
        encoded: The encoder's latents [N, c, h, w].
        wanted: The decoder's, same shape.
        returned: What the decoder makes of the encoder's latents.
        remade: What it makes of its own.
        errors: Mean squared error before each step of the descent; empty where there was no gradient.
        link: How the encoder's latents relate to the decoder's.
        expected_db: The recorded round trip for images of this difficulty; None without a record.
    """

    images: Tensor
    encoded: Tensor
    wanted: Tensor
    returned: Tensor
    remade: Tensor
    errors: tuple[float, ...]
    link: Link
    expected_db: float | None

    @property
    def round_trip_db(self) -> float:
        """Through the encoder."""
        return float(psnr_db(self.returned, self.images).mean())

    @property
    def ceiling_db(self) -> float:
        """The best that the decoder was made to give."""
        return max(float(psnr_db(self.remade, self.images).mean()), self.round_trip_db)

    @property
    def lowest_ceiling_db(self) -> float:
        """Below it the decoder itself is at fault."""
        if self.expected_db is None:
            return USELESS_DB
        # Descent stops far short of a codec that loses next to nothing.
        return min(self.expected_db - CEILING_MARGIN_DB, LOSSLESS_DB - CEILING_MARGIN_DB)


def measure_decoder_inversion(subject: Subject) -> Measurement:
    """Invert the decoder on known images and compare with the encoder."""
    begin = time.perf_counter()
    title = "Does the encoder give the latents that the decoder wants?"
    rows = _rows(subject)
    images = _cropped(subject.images[rows], subject.pipe.decoder.latent_space.stride)
    encoded = subject.encode(images)
    returned = subject.decode(encoded)
    if not (bool(encoded.isfinite().all()) and bool(returned.isfinite().all())):
        return Measurement("INV", title, CODEC, skipped="the codec's own outputs are not finite")
    golden = golden_distance(subject)
    round_trip_db = float(psnr_db(returned, images).mean())
    expected_db = _expected_db(subject, images)
    explained = explanations(subject)
    if subject.quick and explained:
        metric = Metric("round_trip_db", round_trip_db, "known images through the codec")
        return Measurement(
            "INV", title, CODEC, (metric,), tuple(_explained(explained)), seconds=time.perf_counter() - begin
        )
    if subject.quick and _is_cleared(subject, golden, round_trip_db, expected_db):
        about = "known images through a codec whose encoder gives its recorded latents"
        limit = Healthy(
            (expected_db or 0.0) - ROUND_TRIP_MARGIN_DB, None, "contract, difficulty accounted for"
        )
        metric = Metric("round_trip_db", round_trip_db, about, limit)
        return Measurement("INV", title, CODEC, (metric,), seconds=time.perf_counter() - begin)
    found = _inverted(subject, images, encoded, returned, expected_db)
    leaning = _leaning(subject, rows, found)
    return Measurement(
        "INV",
        title,
        CODEC,
        tuple(_metrics(found, leaning)),
        tuple(_explained(explained) if explained else _suspicions(subject, found, golden, leaning)),
        (_picture(found),),
        tuple(_curves(found)),
        seconds=time.perf_counter() - begin,
    )


def explanations(subject: Subject) -> tuple[Explanation, ...]:
    """What explains that a half of the codec misses its golden outputs; none where nothing is missed or explained."""
    of_encoder = explanation(subject, Kind.ENCODER)
    hint = None
    if of_encoder is not None and of_encoder.mixing is not None:
        hint = torch.linalg.pinv(of_encoder.mixing)
    of_decoder = explanation(subject, Kind.DECODER, hint)
    return tuple(one for one in (of_encoder, of_decoder) if one is not None)


def _explained(found: Sequence[Explanation]) -> Iterator[Suspicion]:
    if len(found) == 2 and all(one.mixing is not None for one in found):
        said = "; ".join(f"{one.kind}: {one.evidence}" for one in found)
        yield Suspicion(CODEC, "both halves speak of the latents of another codec", CERTAIN, said)
        return
    for one in found:
        yield Suspicion(frozenset({one.kind}), one.fault, CERTAIN, one.evidence)


def difficulty_db(images: Tensor) -> Tensor:
    """How well images [N, C, H, W] survive shrinking to an eighth, each [N]: codecs find the same ones hard."""
    factor = max(2, min(8, images.shape[-1] // 4, images.shape[-2] // 4))
    small = functional.interpolate(images, scale_factor=1.0 / factor, mode="area")
    large = functional.interpolate(small, images.shape[-2:], mode="bilinear")
    return psnr_db(large, images)


def _rows(subject: Subject) -> Tensor:
    count = min(len(subject.images), IMAGES_QUICK if subject.quick else IMAGES)
    return torch.linspace(0, len(subject.images) - 1, count).round().long()


def _cropped(images: Tensor, stride: int) -> Tensor:
    sides = [min(side // stride, max(LARGEST_CELLS, 64 // stride)) * stride for side in images.shape[-2:]]
    top, left = (
        (side - kept) // 2 // stride * stride for side, kept in zip(images.shape[-2:], sides, strict=True)
    )
    return images[..., top : top + sides[0], left : left + sides[1]]


def _is_cleared(
    subject: Subject, golden: float | None, round_trip_db: float, expected_db: float | None
) -> bool:
    """Whether nothing is left to split: the encoder gives its recorded latents, the decoder its recorded images."""
    return (
        golden is not None
        and golden_range(subject).holds(golden)
        and expected_db is not None
        and round_trip_db >= expected_db - ROUND_TRIP_MARGIN_DB
        and _signature(subject) is None
    )


def _expected_db(subject: Subject, images: Tensor) -> float | None:
    """The recorded round trip, for images as hard as these."""
    recorded = recorded_psnr_db(subject)
    if recorded is None:
        return None
    return recorded - float(difficulty_db(subject.images).mean() - difficulty_db(images).mean())


def _inverted(
    subject: Subject, images: Tensor, encoded: Tensor, returned: Tensor, expected_db: float | None
) -> Inversion:
    channels, height, width = encoded.shape[1:]
    start = linear_inverse(
        subject.decode,
        images,
        (channels, height, width),
        subject.seed,
        PROBES_QUICK if subject.quick else PROBES,
    )
    wanted, errors = start, list[float]()
    steps, budget = (STEPS_QUICK, BUDGET_QUICK_S) if subject.quick else (STEPS, BUDGET_S)
    if (better := optimised(subject.pipe.decoder, images, start, steps, budget)) is not None:
        wanted, errors = better
    return Inversion(
        images,
        encoded,
        wanted,
        returned,
        subject.decode(wanted),
        tuple(errors),
        Link.between(encoded, wanted),
        expected_db,
    )


def _leaning(subject: Subject, rows: Tensor, found: Inversion) -> float | None:
    """Whose latents the denoiser and the expected statistics find stranger: > 0 the encoder's, < 0 the decoder's.

    In units of the logarithm of the denoiser's relative error; None where the denoiser cannot be asked.
    """
    mapped = found.link.mapped(found.encoded)
    loss_db = found.ceiling_db - float(psnr_db(subject.decode(mapped), found.images).mean())
    is_linear = loss_db < 3.0
    wanted = mapped if is_linear else found.wanted
    try:
        ours, theirs = (_strangeness(subject, rows, z) for z in (found.encoded, wanted))
    except (LdmError, RuntimeError):
        # A crop need not be a size that the denoiser takes.
        return None
    spread = moments(subject, found.images, found.encoded).kl_nats
    other = moments(subject, found.images, wanted).kl_nats
    value = ours - theirs + (0.0 if is_linear else INVERSION_NOISE) + 3.0 * (min(spread, 1) - min(other, 1))
    if subject.pipe.decoder.latent_space.stride > 1:
        value += HEALTHY_LEANING
    return value if math.isfinite(value) else None


def _strangeness(subject: Subject, rows: Tensor, z: Tensor) -> float:
    level = NoiseLevel.at(torch.tensor(WITNESS_LOG_SNR), Scaling.VP)
    told = {name: value[rows] for name, value in subject.condition.items()}
    clean = subject.clean(level.add_noise(z, subject.noise(z, STREAM)), level, told)
    power = (z - z.mean((0, 2, 3), keepdim=True)).square().mean().clamp(min=1e-6)
    return math.log(float((clean - z).square().mean() / power) + 1e-6)


def _metrics(found: Inversion, leaning: float | None) -> Iterator[Metric]:
    gained = found.ceiling_db - found.round_trip_db
    limit = Healthy(
        found.lowest_ceiling_db,
        None,
        "contract, difficulty accounted for" if found.expected_db else "any decoder",
    )
    yield Metric("ceiling_db", found.ceiling_db, "the best that the decoder gives, by inversion", limit)
    yield Metric("round_trip_db", found.round_trip_db, "the same images through the encoder")
    yield Metric("gained_db", gained, "what better latents than the encoder's gain", GAIN_DB)
    yield Metric("latent_gain", found.link.fit.gain, "wanted latents over the encoder's; descent adds some")
    yield Metric("unexplained_share", found.link.fit.unexplained, "of the wanted latents, by the encoder's")
    distance = float((found.wanted - found.encoded).square().mean().sqrt())
    yield Metric("latent_distance", distance, "RMS between the wanted latents and the encoder's")
    if leaning is not None:
        yield Metric(
            "leaning", leaning, "whose latents are stranger to the denoiser: + the encoder's, - the decoder's"
        )


def _suspicions(
    subject: Subject, found: Inversion, golden: float | None, leaning: float | None
) -> Iterator[Suspicion]:
    gained = found.ceiling_db - found.round_trip_db
    numbers = f"ceiling {found.ceiling_db:.1f} dB, round trip {found.round_trip_db:.1f} dB"
    if found.expected_db is not None:
        numbers += f", recorded {found.expected_db:.1f} dB for such images"
    link = list(found.link.words())
    behind = found.expected_db is not None and found.round_trip_db < found.expected_db - ROUND_TRIP_MARGIN_DB
    seen = _signature(subject)
    if found.ceiling_db < found.lowest_ceiling_db:
        said = seen or "cannot make the images, whatever its latents"
        yield Suspicion(DECODER, f"the decoder: {said}", 0.85, numbers)
        return
    if GAIN_DB.holds(gained) and not behind and not link and seen is None:
        return
    if GAIN_DB.holds(gained) and not behind and seen is None and found.link.turn == PLACE:
        # Descent finds latents of other scales that make no better images: nothing is wrong with those.
        return
    words = "; ".join(link) or "damaged beyond any linear change"
    theirs = f"the encoder's latents are {words}"
    ours = f"the decoder: {seen}" if seen else f"the decoder does not fit its latents: to it they are {words}"
    if golden is not None:
        spread = moments(subject, found.images, found.encoded).kl_nats
        matches = golden_range(subject).holds(golden)
        numbers += f"; golden latents {'match' if matches else f'differ by {golden:.2f}'}"
        # The golden values cover one channel; a dead one elsewhere shows in the statistics.
        is_sound = {kind: _puts_out_the_same(subject, kind) for kind in (Kind.ENCODER, Kind.DECODER)}
        if matches and all(is_sound.values()):
            said = f"encoder and decoder, each as it was saved, do not belong together: {theirs}"
            yield Suspicion(CODEC, said, 0.8, numbers)
        elif matches and spread < 0.15 and not is_sound[Kind.DECODER]:
            yield Suspicion(DECODER, ours, 0.9, numbers)
        else:
            yield Suspicion(ENCODER, theirs, 0.95, numbers)
        return
    if leaning is None or abs(leaning) < DECISIVE:
        yield Suspicion(CODEC, f"encoder and decoder do not belong together: {theirs}", 0.6, numbers)
        return
    strength = min(0.9, 0.5 + abs(leaning) / 2)
    if subject.pipe.decoder.latent_space.stride == 1 and (ranged := _pixel_range(found, leaning)):
        theirs = ours = ranged
        strength = CERTAIN
    numbers += f"; the denoiser finds the {'encoder' if leaning > 0 else 'decoder'}'s latents stranger"
    yield (
        Suspicion(ENCODER, theirs, strength, numbers)
        if leaning > 0
        else Suspicion(DECODER, ours, strength, numbers)
    )


def _pixel_range(found: Inversion, leaning: float) -> str | None:
    """In pixel space, a range of pixels that explains the round trip wholly; None where none does."""
    fit = channel_fit(found.images, found.returned)
    gain, offset = fit.gain, float(fit.offset.mean())
    even = max(float((fit.matrix.diagonal() - gain).abs().max()), float((fit.offset - offset).abs().max()))
    if not (fit.unexplained < EXACT and even < EXACT and abs(gain) > EXACT):
        return None
    return range_words("input" if leaning > 0 else "output", 1.0 / gain, -offset / gain)


def _puts_out_the_same(subject: Subject, kind: Kind) -> bool:
    """Whether golden outputs are recorded of a stage and come back."""
    found = differences(subject, kind)
    return bool(found) and max(value for _, value in found) <= tolerance(subject, kind)


def _signature(subject: Subject) -> str | None:
    images = evenly(subject.images, MARKED_IMAGES)
    return signature(round_trip(subject, images, subject.decode(subject.encode(images))))


def _picture(found: Inversion) -> Picture:
    rows = [torch.cat(list(part[:6]), -1) for part in (found.images, found.returned, found.remade)]
    image = torch.cat(rows, -2).clamp(-1, 1).float()
    alt = "Top: known images. Middle: through encoder and decoder. Bottom: the best that the decoder gives."
    return Picture("Decoder inversion", alt, image.expand(3, -1, -1).contiguous())


def _curves(found: Inversion) -> Iterator[Curve]:
    if found.errors:
        reached_db = [10.0 * math.log10(4.0 / max(error, 1e-10)) for error in found.errors]
        points = tuple((float(step), value) for step, value in enumerate(reached_db))
        flat = ((0.0, found.round_trip_db), (float(len(points) - 1), found.round_trip_db))
        lines = {"inversion": points, "encoder": flat}
        yield Curve("Decoder inversion", "step", "PSNR of the mean error, dB", lines)
