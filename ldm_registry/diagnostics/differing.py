"""What differs between two parts before anything runs: settings and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ldm_registry.diagnostics.agreement import Precision, is_equal, relative_error
from ldm_registry.interfaces import Component, NoiseSchedule
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.vocabulary import Kind


@dataclass(frozen=True, slots=True)
class TensorGap:
    """A weight that is not the same.

    Attributes:
        name: As in the state dict of the first.
        shape: Of the first; empty where only the second has it.
        relative_error: Root mean square of the difference over that of the first; infinite where one of them has no
            such tensor, or another shape.
        how: In words.
    """

    name: str
    shape: tuple[int, ...]
    relative_error: float
    how: str


def differing_tensors(
    one: nn.Module, other: nn.Module, precision: Precision, prefix: str = ""
) -> tuple[TensorGap, ...]:
    """Weights and buffers that differ by more than rounding to the coarser type, in the order of the first.

    Args:
        one: Gives the names.
        other: Of the same class.
        precision: Of the coarser of the two.
        prefix: Before every name.
    """
    mine, yours = one.state_dict(), other.state_dict()
    return tuple(_gaps(mine, yours, precision, prefix))


def _gaps(
    mine: Mapping[str, torch.Tensor], yours: Mapping[str, torch.Tensor], precision: Precision, prefix: str
) -> Iterator[TensorGap]:
    for name, tensor in mine.items():
        twin, shape = yours.get(name), tuple(tensor.shape)
        if twin is None:
            yield TensorGap(prefix + name, shape, float("inf"), "only the first has it")
        elif twin.shape != tensor.shape:
            how = f"shape {list(shape)} against {list(twin.shape)}"
            yield TensorGap(prefix + name, shape, float("inf"), how)
        elif not is_equal(tensor, twin) and not _is_rounded(tensor, twin, precision):
            error = relative_error(tensor, twin)
            how = f"relative difference {error:.2g}"
            yield TensorGap(prefix + name, shape, error, how + _reordered(tensor, twin))
    for name in yours.keys() - mine.keys():
        yield TensorGap(prefix + name, (), float("inf"), "only the second has it")


def _reordered(one: torch.Tensor, other: torch.Tensor) -> str:
    """What a conversion that confuses rows, columns or halves does: the values are all there."""
    first, second = (tensor.detach().to("cpu", torch.float64).flatten() for tensor in (one, other))
    is_same = torch.equal(first.sort().values, second.sort().values)
    return ", the same values in another order" if is_same else ""


def _is_rounded(one: torch.Tensor, other: torch.Tensor, precision: Precision) -> bool:
    """Whether no element differs by more than the spacing of the coarser type at the largest."""
    first, second = one.detach().to("cpu", torch.float64), other.detach().to("cpu", torch.float64)
    gap, size = (first - second).abs(), first.abs().max() if first.numel() else first.sum()
    return bool(gap.isfinite().all() and gap.max() <= precision.eps * size) if gap.numel() else True


def differing_settings(one: Pipeline, other: Pipeline, kind: Kind) -> tuple[str, ...]:
    """What is said otherwise of one stage, a line each: `first against second`."""
    mine, yours = dict(_facts(one, kind)), dict(_facts(other, kind))
    is_same_class = mine["component"] == yours["component"]
    lines = []
    for name in [*mine, *(name for name in yours if name not in mine)]:
        if name.startswith("config ") and not is_same_class and not (name in mine and name in yours):
            continue
        first, second = mine.get(name, "nothing"), yours.get(name, "nothing")
        if first != second:
            lines.append(f"{name}: {_short(first)} against {_short(second)}")
    return tuple(lines)


def differing_run(one: Pipeline, other: Pipeline) -> tuple[str, ...]:
    """What is said otherwise of the images to be made, a line each."""
    first, second = one.spec, other.spec
    pairs: dict[str, tuple[Any, Any]] = {
        "image": (_image(one), _image(other)),
        "condition": (dict(first.condition), dict(second.condition)),
        "seed": (first.seed, second.seed),
    }
    return tuple(
        f"{name}: {_short(mine)} against {_short(yours)}"
        for name, (mine, yours) in pairs.items()
        if mine != yours
    )


def _facts(pipe: Pipeline, kind: Kind) -> Iterator[tuple[str, Any]]:
    part: Component = getattr(pipe, kind.value)
    yield "component", part.name
    yield from _settings(part, "config")
    yield from ((f"modify {index + 1}", _modifier(one)) for index, one in enumerate(_modifiers(pipe, kind)))
    if kind is Kind.SCHEDULER:
        yield from _levels(pipe)
        yield "dtype", str(pipe.spec.scheduler.dtype or "of the denoiser")
    else:
        device, dtype = placement(part)
        yield "device", str(device)
        yield "dtype", str(dtype).removeprefix("torch.")
    if kind is Kind.DENOISER:
        yield "prediction", pipe.denoiser.prediction.value
        if pipe.denoiser.training_schedule is not None:
            yield from _schedule(pipe.denoiser.training_schedule)
        trained = getattr(pipe.denoiser, "trained", None)
        yield "time scale", getattr(trained, "time_scale", 1.0)
        yield "guidance scale", pipe.spec.guidance.scale
        yield "negative", dict(pipe.spec.guidance.negative)
        for label, conditioner in sorted(pipe.conditioners.items()):
            yield f"conditioner {label}", conditioner.name
            yield from _settings(conditioner, f"conditioner {label}")


def _settings(part: Component, prefix: str) -> Iterator[tuple[str, Any]]:
    config = getattr(part, "config", None)
    if config is not None:
        yield from ((f"{prefix} {name}", value) for name, value in config.model_dump(mode="json").items())


def _schedule(schedule: NoiseSchedule) -> Iterator[tuple[str, Any]]:
    yield "trained schedule", schedule.name
    yield from _settings(schedule, "trained schedule")


def _levels(pipe: Pipeline) -> Iterator[tuple[str, Any]]:
    levels = pipe.scheduler.levels()
    visited = levels.log_snr
    if not hasattr(pipe.scheduler.config, "steps"):
        yield "steps", len(levels) - 1
    yield "visited log-SNR", f"{float(visited[0]):.3f} to {float(visited[-1]):.3f}"
    said = pipe.spec.scheduler.schedule
    yield "schedule", "the denoiser's" if said is None else f"{said.name} {dict(said.config)}"


def _modifiers(pipe: Pipeline, kind: Kind) -> tuple[Any, ...]:
    return tuple(getattr(getattr(pipe.spec, kind.value), "modify", ()))


def _modifier(said: Any) -> str:
    return f"{said.use} {dict(said.config) or ''}".strip()


def _image(pipe: Pipeline) -> str:
    image = pipe.spec.image
    return f"{image.channels} x {image.height} x {image.width}"


def _short(value: Any, most: int = 60) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."
