"""Where a streaming run stands, as a line, and how it ended, as text and as a document."""

from __future__ import annotations

from typing import Any

from ldm_registry.streaming.progress import Progress


def line(progress: Progress) -> str:
    """A state on one line: images, rate, time left."""
    made = int(progress.found + progress.made)
    text = f"{made:,} of {progress.plan.n:,} images"
    if progress.images_per_s is None or progress.left_s is None:
        return text
    return f"{text}, {_rate(progress.images_per_s)}, {_duration(progress.left_s)} left"


def describe(progress: Progress) -> dict[str, Any]:
    """How a run ended, as a JSON document."""
    plan = progress.plan
    return {
        "n": plan.n,
        "batch": plan.batch,
        "shard_size": plan.shard_size,
        "shards": len(plan),
        "images": progress.whole,
        "found": progress.found,
        "stopped": progress.stopped,
        "elapsed_s": progress.elapsed_s,
        "images_per_s": progress.images_per_s,
        "spec_sha256": progress.spec_sha256,
        "manifest": str(progress.manifest),
    }


def summary(progress: Progress) -> str:
    """How a run ended, for a terminal."""
    plan, folder = progress.plan, progress.manifest.parent
    if progress.whole == progress.found == plan.n:
        return f"all {plan.n:,} images are there already: {folder}"
    pace = f" ({_duration(progress.elapsed_s)}"
    pace += f", {_rate(progress.images_per_s)})" if progress.images_per_s else ")"
    if progress.whole < plan.n:
        kept = f"{progress.whole:,} of {plan.n:,} images are in finished shards{pace}: {folder}"
        return f"{progress.stopped}: {kept}\nthe same command goes on from there"
    count = f"{len(plan):,} shard{'s' if len(plan) > 1 else ''}"
    return f"{plan.n:,} images in {count}{pace}: {folder}"


def _rate(images_per_s: float) -> str:
    if images_per_s >= 1:
        return f"{images_per_s:.3g} a second"
    return (
        f"{60 * images_per_s:.3g} a minute"
        if images_per_s >= 1 / 60
        else f"{3600 * images_per_s:.3g} an hour"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
