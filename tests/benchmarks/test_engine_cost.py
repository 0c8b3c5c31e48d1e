"""What Ray adds to an image: shards of a network that does next to nothing, by workers and by one process."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from race import Race
from result import Result

from ldm_registry.assembly import assemble
from ldm_registry.pipeline import Pipeline
from ldm_registry.spec import PipelineSpec
from ldm_registry.streaming import stream

pytestmark = [
    pytest.mark.benchmark(group="making shards on Ray with a network that does next to nothing, one image"),
    pytest.mark.plugins,
]

SPEC = {
    "version": 1,
    "image": {"channels": 3, "size": 16},
    "encoder": {"use": "identity"},
    "denoiser": {
        "use": "gaussian",
        "config": {"channels": 3},
        "trained": {"prediction": "epsilon", "schedule": {"name": "cosine"}},
    },
    "scheduler": {"use": "ddim", "config": {"steps": 2}},
    "decoder": {"use": "identity"},
}
WORKERS = (1, 2, 4)
BATCHES = (1, 4, 16, 64)
SHARD = 64
"""Images of a task: few, so that what a task costs is seen."""
IMAGES = 6144


@pytest.fixture
def _ray(pytestconfig: pytest.Config, smoke: bool) -> None:
    if not (smoke or pytestconfig.getoption("--ray")):
        pytest.skip("workers on Ray take minutes: ask for them with --ray")
    pytest.importorskip("ray")


@pytest.mark.usefixtures("_ray")
def test_an_image_of_workers_beside_one_of_one_process(race: Race, tmp_path: Path, smoke: bool) -> None:
    pipe = assemble(PipelineSpec.model_validate(SPEC))
    n = 2 * SHARD if smoke else IMAGES
    batches = BATCHES[-1:] if smoke else BATCHES
    alone = {batch: image_s(pipe, n, batch, tmp_path / f"here-{batch}") for batch in batches}
    for batch, seconds in alone.items():
        race.tell(Result(f"one process, batch {batch}", seconds, turns=n))
    for workers in WORKERS[:1] if smoke else WORKERS:
        made = {
            batch: image_s(pipe, n, batch, tmp_path / f"{workers}-{batch}", workers=workers)
            for batch in batches
        }
        for batch, seconds in made.items():
            added = workers * seconds - alone[batch]
            note = f"{quantity_us(added)} of a worker's time beyond one process"
            race.tell(Result(f"{workers} workers, batch {batch}", seconds, turns=n, note=note))
        if not smoke:
            race.tell(
                Result(f"{workers} workers, exponent of the batch in a worker's time", slope(made), unit="")
            )
    race.found()


def image_s(pipe: Pipeline, n: int, batch: int, folder: Path, *, workers: int | None = None) -> float:
    """Seconds for one image once the first shard is there, so that nothing of the start is in it."""
    marks: list[tuple[float, int]] = []
    on = None if workers is None else "ray"
    for progress in stream(pipe, n, folder, batch=batch, shard_size=SHARD, on=on, workers=workers):
        if progress.whole and (not marks or progress.whole > marks[-1][1]):
            marks.append((time.perf_counter(), progress.whole))
    (begin, first), (end, last) = marks[0], marks[-1]
    return (end - begin) / max(1, last - first)


def slope(by_batch: dict[int, float]) -> float:
    """The p of `seconds = a * batch**p`, by least squares in the logarithms."""
    points = [(math.log(batch), math.log(seconds)) for batch, seconds in by_batch.items()]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def quantity_us(seconds: float) -> str:
    """A time that may be negative."""
    return f"{1e6 * seconds:.0f} us"
