"""The events of a run as rows of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from ldm_registry.interfaces import NoiseLevel
from ldm_registry.pipeline import Decoded, DenoiserCalled, Event, Started, Stepped
from ldm_registry.report.tables import number, table


@dataclass(frozen=True, slots=True)
class Row:
    """One event.

    Attributes:
        stage: `noise`, `denoiser`, `scheduler` or `decoder`.
        index: Of the call or the step; None for the others.
        alpha: Signal scale of the level.
        sigma: Noise scale of the level.
        log_snr: Nats; None where it is infinite.
        z_rms: Root mean square of what the stage worked on (the decoder: the latent). The denoiser's is
            normalised, so close to 1 for a latent of unit variance.
        x0_rms: Of the clean estimate (the decoder: of the image); None where there is none.
        latency_ms: Wall time; None where nothing was computed.
    """

    stage: str
    index: int | None
    alpha: float | None
    sigma: float | None
    log_snr: float | None
    z_rms: float
    x0_rms: float | None
    latency_ms: float | None


def rows(happening: Iterable[Event]) -> Iterator[Row]:
    """One row for each event, as it happens."""
    for event in happening:
        match event:
            case Started(levels=levels, z=z):
                yield Row("noise", None, *_level(levels[0]), _rms(z), None, None)
            case DenoiserCalled(index=index, level=level, z=z, x0=x0, latency_ms=latency_ms):
                yield Row("denoiser", index, *_level(level), _rms(z), _rms(x0), latency_ms)
            case Stepped(index=index, level=level, z=z, x0=x0, latency_ms=latency_ms):
                yield Row("scheduler", index, *_level(level), _rms(z), _rms(x0), latency_ms)
            case Decoded(latent=latent, image=image, latency_ms=latency_ms):
                yield Row("decoder", None, None, None, None, _rms(latent), _rms(image), latency_ms)


def to_document(happened: Sequence[Row]) -> dict[str, object]:
    """The rows as a JSON document."""
    return {"events": [asdict(row) for row in happened]}


def render(happened: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    header = ("stage", "step", "log-SNR [nats]", "z rms", "x0 rms", "ms")
    cells = [
        (
            row.stage,
            number(row.index),
            number(row.log_snr, 3),
            number(row.z_rms, 4),
            number(row.x0_rms, 4),
            number(row.latency_ms, 2),
        )
        for row in happened
    ]
    return table(header, cells, right=(1, 2, 3, 4, 5))


def _level(level: NoiseLevel) -> tuple[float, float, float | None]:
    log_snr = float(level.log_snr)
    return float(level.alpha), float(level.sigma), log_snr if math.isfinite(log_snr) else None


def _rms(values: Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())
