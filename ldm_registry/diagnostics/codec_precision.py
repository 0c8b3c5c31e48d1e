"""DTY: do encoder and decoder give in their own precision what they give in double precision?"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.round_trip import evenly
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import Decoder, Encoder
from ldm_registry.pipeline import placement
from ldm_registry.vocabulary import Kind

IMAGES, IMAGES_QUICK = 4, 1
CODEC = frozenset({Kind.ENCODER, Kind.DECODER})
LARGEST_DOUBLE_PIXELS = 256 * 256
"""Beyond it the reference runs in single precision."""
ERRORS_IN_EPS = 300.0
"""Rounding errors that a deep network piles up, in units of its type's epsilon; calibrated on healthy codecs."""
GRID = Healthy(None, 0.5, "numbers of this precision hardly ever fit a coarser type")
COARSER = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Precision:
    """One half of a codec against itself in a finer type.

    Attributes:
        kind: Which half.
        dtype: What it runs in.
        error: Relative RMS error of its output.
        finite: Whether both outputs are finite.
        restored: Whether only the finer one is.
        coarse: A coarser type that nearly all outputs fit, although the stage claims a finer one.
        coarse_share: How many do.
    """

    kind: Kind
    dtype: torch.dtype
    error: float
    finite: bool
    restored: bool
    coarse: torch.dtype | None
    coarse_share: float

    @property
    def healthy(self) -> Healthy:
        """Where the error lies for this type."""
        return Healthy(
            None,
            ERRORS_IN_EPS * float(torch.finfo(self.dtype).eps) if self.dtype != torch.bfloat16 else 0.15,
            f"rounding of {_name(self.dtype)} in a deep network",
        )


def measure_codec_precision(subject: Subject) -> Measurement:
    """The same input through each half in the type that it runs in and in a finer one, on copies."""
    begin = time.perf_counter()
    images = evenly(subject.images, IMAGES_QUICK if subject.quick else IMAGES)
    latents = subject.encode(images)
    found = [half for half in _halves(subject, images, latents) if half is not None]
    title = "Do encoder and decoder give in their own precision what they give in a finer one?"
    if not found:
        return Measurement("DTY", title, CODEC, skipped="neither half of the codec computes anything")
    return Measurement(
        "DTY",
        title,
        CODEC,
        tuple(_metrics(found)),
        tuple(_suspicions(found)),
        seconds=time.perf_counter() - begin,
    )


@torch.no_grad()
def _halves(subject: Subject, images: Tensor, latents: Tensor) -> Iterator[Precision | None]:
    pipe = subject.pipe

    def encode(part: nn.Module, values: Tensor) -> Tensor:
        assert isinstance(part, Encoder)
        return part.encode(values)

    def decode(part: nn.Module, values: Tensor) -> Tensor:
        assert isinstance(part, Decoder)
        return part.decode(values)

    yield _compared(Kind.ENCODER, pipe.encoder, images, encode)
    # The decoder gets finite latents: those of a broken encoder say nothing about it.
    yield _compared(Kind.DECODER, pipe.decoder, latents.nan_to_num().clamp(-10, 10), decode)


def _compared(
    kind: Kind, part: nn.Module, given: Tensor, run: Callable[[nn.Module, Tensor], Tensor]
) -> Precision | None:
    if not any(tensor.is_floating_point() for tensor in (*part.parameters(), *part.buffers())):
        return None
    device, dtype = placement(part)
    finer = torch.float64 if given.shape[-1] * given.shape[-2] <= LARGEST_DOUBLE_PIXELS else torch.float32
    if device.type == "mps":
        finer = torch.float32
    if torch.finfo(finer).eps >= torch.finfo(dtype).eps:
        return None
    made = run(part, given.to(device, dtype)).detach()
    # Both see the same numbers: what rounding the input costs is not the part's doing.
    twin = copy.deepcopy(part).to(finer)
    true = run(twin, given.to(device, dtype).to(finer)).detach().cpu()
    values = made.to(finer).cpu()
    finite, sound = bool(values.isfinite().all()), bool(true.isfinite().all())
    scale = (true - true.mean()).square().mean().sqrt().clamp(min=1e-12)
    error = float((values - true).square().mean().sqrt() / scale) if finite and sound else float("nan")
    coarse, share = _coarse(made)
    return Precision(kind, dtype, error, finite and sound, sound and not finite, coarse, share)


def _coarse(values: Tensor) -> tuple[torch.dtype | None, float]:
    """A type coarser than the tensor's own that most of its values fit exactly, and how many do."""
    finer = [dtype for dtype in COARSER if torch.finfo(dtype).bits < torch.finfo(values.dtype).bits]
    shares = {dtype: float((values.to(dtype).to(values.dtype) == values).double().mean()) for dtype in finer}
    worst = max(shares, key=lambda dtype: shares[dtype], default=None)
    if worst is None:
        return None, 0.0
    return (worst if shares[worst] > (GRID.high or 0) else None), shares[worst]


def _metrics(found: list[Precision]) -> Iterator[Metric]:
    for one in found:
        about = f"{_name(one.dtype)} against a finer type"
        yield Metric(f"{one.kind}_relative_error", one.error, about, one.healthy)
        yield Metric(
            f"{one.kind}_coarse_share", one.coarse_share, "outputs that fit a 16-bit type exactly", GRID
        )


def _suspicions(found: list[Precision]) -> Iterator[Suspicion]:
    for one in found:
        stage, own = frozenset({one.kind}), _name(one.dtype)
        if one.restored:
            why = f"its output is not finite in {own} and finite in double precision"
            yield Suspicion(stage, f"the {one.kind} overflows in {own}", 1.0, why)
        elif one.finite and not one.healthy.holds(one.error):
            why = f"relative error {one.error:.2g} against itself in a finer type"
            yield Suspicion(stage, f"the {one.kind} loses precision in {own}", 0.8, why)
        if one.coarse is not None:
            why = f"{one.coarse_share:.0%} of its {own} outputs fit {_name(one.coarse)} exactly"
            yield Suspicion(stage, f"the {one.kind} passes its output through {_name(one.coarse)}", 0.85, why)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
