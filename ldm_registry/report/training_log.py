"""Where a training stands, as a line, and how it ended, as a document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ldm_registry.training.progress import Progress


def line(progress: Progress) -> str:
    """A state on one line: step, losses, validation figures, speed, time left."""
    left_s = (progress.steps - progress.step) * progress.step_ms / 1e3
    figures = _figures(progress.losses) + (
        f" | validation {_figures(progress.validation)}" if progress.validation else ""
    )
    speed = f"{progress.step_ms:.0f} ms a step, {left_s / 60:.0f} min left"
    return f"step {progress.step} of {progress.steps}: {figures} | {speed}"


def describe(progress: Progress | None) -> dict[str, Any]:
    """How a training ended, as a JSON document; a figure that is not finite becomes null."""
    if progress is None:
        return {"step": 0, "stopped": "nothing to do"}
    return {
        "step": progress.step,
        "steps": progress.steps,
        "elapsed_s": progress.elapsed_s,
        "losses": _finite(progress.losses),
        "validation": _finite(progress.validation),
        "stopped": progress.stopped,
        "checkpoint": str(progress.checkpoint) if progress.checkpoint else None,
    }


def summary(progress: Progress | None) -> str:
    """How a training ended, for a terminal."""
    if progress is None:
        return "nothing to do"
    figures = f": {_figures(progress.validation)}" if progress.validation else ""
    lines = [f"{progress.stopped or 'stopped'} at step {progress.step} of {progress.steps}{figures}"]
    if progress.checkpoint:
        lines.append(f"checkpoint: {progress.checkpoint}")
    if progress.step < progress.steps:
        lines.append("the same command goes on from here")
    return "\n".join(lines)


def _figures(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
